//! What runs beside an API server: the controllers and the scheduler, as clients of it.

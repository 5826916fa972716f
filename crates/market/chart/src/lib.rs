//! Helm charts: load, merge values, render, order; releases as Helm stores them.

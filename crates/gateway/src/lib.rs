//! HTTPS in front, streams dialled by the replicas behind, names claimed by signature, own CA.

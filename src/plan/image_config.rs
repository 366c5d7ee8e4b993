//! plan/image_config

"""The page of `fer app`, on which people try the fused model with a photograph."""

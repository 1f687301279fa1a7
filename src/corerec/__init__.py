"""CoreRec: sequential recommendations."""

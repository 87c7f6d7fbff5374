"""Raw footage to measured, decided, sharded clips."""

"""A mean teacher that looks at random views where the source is unsure, and a student that forgets what it learned."""

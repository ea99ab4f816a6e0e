"""Everything that can go wrong, at once, and a checker of who believed what when."""

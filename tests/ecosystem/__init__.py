"""At home with the frameworks: each with its real package, at its newest and its oldest version."""

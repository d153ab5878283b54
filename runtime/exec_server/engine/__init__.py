"""What an exec-server does, without a word about how it is asked: no JSON, no revision."""

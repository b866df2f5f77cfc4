"""The stages of the graph: a module for each, whose function of the same name is its work."""

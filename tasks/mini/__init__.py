"""The procedural world behind the `mini` backbone: scenes, pictures, words and a ScienceQA-format data set."""

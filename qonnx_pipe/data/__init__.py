"""Where examples come from: files, installed packages, the hub; and how texts become batches."""

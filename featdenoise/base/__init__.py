"""The ground floor: no file here knows of models, attacks or data sets."""

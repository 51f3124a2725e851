package account

// KeptForResets is how many key statements a user cannot use up.
const KeptForResets = keptForResets

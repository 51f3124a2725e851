package front

const SiftAtOnce = siftAtOnce

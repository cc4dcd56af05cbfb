/**
 * The candidate that a misspelt word was most likely meant to be: the one with the fewest letters to add, drop or change, as long as
 * those are at most a third of the word.
 */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const far = Math.max(1, Math.floor(word.length / 3));
  const found = candidates
    .map((candidate) => ({ candidate, distance: distance(word, candidate) }))
    .filter((one) => one.distance <= far)
    .toSorted((a, b) => a.distance - b.distance);
  return found[0]?.candidate;
}

/** Levenshtein's distance. */
function distance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const change = left[i - 1] === right[j - 1] ? 0 : 1;
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + change));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}

/** C2: a term that began after another one was seen has the higher fencing token, and no token has two holders. */
import type { Facts, TermFacts, Violation } from './facts.ts'

export function checkTokens({ terms }: Facts): Violation[] {
  return [...terms.values()].flatMap((all) => [...all.flatMap(twoHolders), ...misordered(all)])
}

function twoHolders({ lease, token, holders, begunMs }: TermFacts): Violation[] {
  if (holders.size < 2) return []
  const what = `token ${token} has two holders: ${[...holders].join(' and ')}`
  return [{ check: 'C2', lease, atMs: begunMs, what, tokens: [String(token)] }]
}

function misordered(all: readonly TermFacts[]): Violation[] {
  const begun = all.toSorted((a, b) => a.begunMs - b.begunMs)
  let next = 0
  let highest: TermFacts | undefined
  return all
    .toSorted((a, b) => a.fromMs - b.fromMs)
    .flatMap((term) => {
      for (let one = begun[next]; one !== undefined && one.begunMs < term.fromMs; one = begun[++next]) {
        if (highest === undefined || one.token > highest.token) highest = one
      }
      if (highest === undefined || term.token >= highest.token) return []
      const what = `token ${term.token} for a term that began after token ${highest.token} was seen`
      const tokens = [String(highest.token), String(term.token)]
      return [{ check: 'C2', lease: term.lease, atMs: term.fromMs, what, tokens }]
    })
}

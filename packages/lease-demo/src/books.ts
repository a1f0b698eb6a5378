/** The books, and what an auditor finds in them. */

export interface Account {
  readonly name: string
  readonly opening: number
  readonly balance: number
}

/** One side of a transfer, in the order in which they were written. */
export interface Entry {
  readonly account: string
  readonly worker: string
  readonly amount: number
  /** Of the lease under which it was written. */
  readonly fencingToken: bigint
}

export interface Books {
  readonly accounts: readonly Account[]
  readonly entries: readonly Entry[]
}

/** One question that an auditor asks, and the answer. */
export interface Finding {
  readonly holds: boolean
  readonly text: string
}

/** Reads nothing but the books: anyone who wrote them, they balance or they do not. `show` writes a fencing token. */
export function audit({ accounts, entries }: Books, show: (fencingToken: bigint) => string): readonly Finding[] {
  return [total(accounts), balances(accounts, entries), fencingTokens(entries, show)]
}

function total(accounts: readonly Account[]): Finding {
  const before = sum(accounts.map((one) => one.opening))
  const after = sum(accounts.map((one) => one.balance))
  if (before === after) return { holds: true, text: `the money is all there: ${after}` }
  const change = after > before ? `${after - before} came from nowhere` : `${before - after} is gone`
  return { holds: false, text: `the money is not right: it was ${before} and is ${after}: ${change}` }
}

function balances(accounts: readonly Account[], entries: readonly Entry[]): Finding {
  const wrong = accounts.flatMap(({ name, opening, balance }) => {
    const due = opening + sum(entries.filter((entry) => entry.account === name).map((entry) => entry.amount))
    return due === balance ? [] : [`${name} has ${balance}, its entries say ${due}`]
  })
  return wrong.length === 0
    ? { holds: true, text: 'every balance is the sum of its entries' }
    : { holds: false, text: `an update was lost: ${wrong.join('; ')}` }
}

function fencingTokens(entries: readonly Entry[], show: (fencingToken: bigint) => string): Finding {
  const last = new Map<string, Entry>()
  for (const entry of entries) {
    const before = last.get(entry.account)
    if (before !== undefined && entry.fencingToken < before.fencingToken) {
      const text = `fencing tokens went back: on ${entry.account}, ${entry.worker} wrote with ${show(entry.fencingToken)} after ${before.worker} had with ${show(before.fencingToken)}`
      return { holds: false, text }
    }
    last.set(entry.account, entry)
  }
  return { holds: true, text: `fencing tokens never go back, in ${entries.length} entries` }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0)

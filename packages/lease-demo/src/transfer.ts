/** Moving money by read, decide, write: the same on every substrate. */
import { ErrLost, ErrNotHeld, type Hold } from 'lease-core'
import type { Balances, Ledger, Posting, Write } from './ledger.ts'

/** Move `amount` from one account to another. */
export interface Order {
  readonly from: string
  readonly to: string
  readonly amount: number
}

export interface TransferOptions {
  /** The leases of both accounts. */
  readonly holds: ReadonlyMap<string, Hold>
  /** `false` checks the leases just as carefully, and writes nothing when it knows of a loss; but it writes without the guard. */
  readonly guarded: boolean
  /** Called after the leases were checked in the store, with the new balances. */
  beforeWrite(next: Balances): Promise<void>
  /** Called once, between the very last check and the write. The worker cannot notice what happens here before it has written. */
  readonly blindSpot?: () => void
  /** Called once, when the write is on its way. */
  readonly sent?: () => void
}

/**
 * Both balances are read, both leases checked, and then the new balances and two entries are written in one transaction.
 *
 * @throws ErrNotHeld with the guard, when one of the holds is not of the present term any more; nothing was written
 * @throws ErrLost without the guard, when this process knows that one of the holds is lost; nothing was written
 */
export async function transfer(ledger: Ledger, order: Order, options: TransferOptions): Promise<void> {
  const holds = [...options.holds]
  // 1. Read and decide. Nothing is locked: the leases keep others out.
  const changes: Balances = { [order.from]: -order.amount, [order.to]: order.amount }
  const before = await orAgain(() => ledger.balances(Object.keys(changes)))
  const postings = holds.map(([account, { holder, fencingToken }]): Posting => {
    const amount = changes[account] ?? 0
    return { account, worker: holder, amount, fencingToken, balance: (before[account] ?? 0) + amount }
  })
  // 2. Check. Guarded, the check goes into the transaction that writes as well; unguarded, it was true a moment ago.
  const tokens = holds.map(([, hold]) => hold.token)
  let write = ledger.write
  if (options.guarded) write = await ledger.guard(tokens)
  else for (const token of tokens) await token.check()
  await options.beforeWrite(Object.fromEntries(postings.map(({ account, balance }) => [account, balance])))
  // 3. Write. Without the guard, the clock is read once more, as late as possible.
  let attempts = 0
  const send: Write = async (all) => {
    if (!options.guarded) for (const [, hold] of holds) hold.assertHeld()
    if (attempts++ === 0) options.blindSpot?.()
    const written = write(all)
    if (attempts === 1) options.sent?.()
    await written
  }
  await writeTo(ledger, send, postings)
}

/**
 * A refused write is in the books all the same if an earlier attempt was carried out while the terms stood and its answer was
 * lost: the driver may have repeated it, too. No attempt can be carried out after the refusal.
 */
async function writeTo(ledger: Ledger, write: Write, postings: readonly Posting[]): Promise<void> {
  try {
    await orAgain(() => write(postings))
  } catch (error) {
    const [first] = postings
    if (!isOver(error) || first === undefined || !(await ledger.hasEntry(first))) throw error
  }
}

/**
 * Once more when it fails: the connection of a process that was stopped may have been dropped meanwhile, and the first request
 * finds that out.
 */
async function orAgain<T>(request: () => Promise<T>): Promise<T> {
  try {
    return await request()
  } catch (error) {
    if (isOver(error)) throw error // an answer
    return request()
  }
}

/** Whether the error says that a lease is lost: the store says so, or this process knows it. */
export function isOver(error: unknown): error is ErrNotHeld | ErrLost {
  return error instanceof ErrNotHeld || error instanceof ErrLost
}

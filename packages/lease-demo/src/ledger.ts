/** What the demo needs of the place where the accounts and their leases live together. */
import type { Client, Hold } from 'lease-core'
import type { Books } from './books.ts'

/** Move `amount` from one account to another. */
export interface Order {
  readonly from: string
  readonly to: string
  readonly amount: number
}

/** Balances after a transfer, by account. */
export type Balances = Readonly<Record<string, number>>

export interface Ledger extends AsyncDisposable {
  /** The leases, in the same store as the accounts: that is what makes a trapdoor possible. */
  readonly client: Client
  /**
   * One transfer by read, decide, write: both balances are read, both leases checked, and then the new balances and two
   * entries are written in one transaction. `beforeWrite` is called between the last check and the first write.
   *
   * @throws ErrNotHeld with the guard on, when one of the holds is not the present term any more; nothing was written
   */
  transfer(
    order: Order,
    holds: ReadonlyMap<string, Hold>,
    beforeWrite: (next: Balances) => Promise<void>,
  ): Promise<void>
}

/** The side of the one who sets the scene and looks at the books afterwards. */
export interface LedgerOffice extends AsyncDisposable {
  /** Creates all that is needed, with these accounts and their opening balances. */
  open(opening: Balances): Promise<void>
  books(): Promise<Books>
  /** Removes all that `open` created. Idempotent. */
  drop(): Promise<void>
}

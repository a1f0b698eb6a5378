/** What the demo needs of the place where the accounts and their leases live together. */
import type { Client, Token } from 'lease-core'
import type { Entry } from './books.ts'

/** Balances by account. */
export type Balances = Readonly<Record<string, number>>

/** An entry, and the balance that its account has with it. */
export interface Posting extends Entry {
  readonly balance: number
}

/**
 * Writes all postings in one transaction, entries in this order. To write them once more changes nothing: an account has one
 * entry for each fencing token.
 */
export type Write = (postings: readonly Posting[]) => Promise<void>

/** What a worker uses. */
export interface Ledger extends AsyncDisposable {
  /** The leases, in the same store as the accounts: that is what makes a trapdoor possible. */
  readonly client: Client
  balances(accounts: readonly string[]): Promise<Balances>
  /** Writes anyone who holds what: one request, so nothing can be checked between its parts. */
  readonly write: Write
  /**
   * Checks the tokens through the trapdoor. Resolves with a write that is done only while all their terms still stand.
   *
   * @throws ErrNotHeld one of them does not stand; from the write: nothing was written
   */
  guard(tokens: readonly Token[]): Promise<Write>
  /** Whether the account has the entry of this fencing token. */
  hasEntry(entry: Pick<Entry, 'account' | 'fencingToken'>): Promise<boolean>
}

/** What the one uses besides who sets the scene and looks at the books afterwards. */
export interface LedgerOffice extends Ledger {
  /** Creates all that is needed, with these accounts and their opening balances. */
  open(opening: Balances): Promise<void>
  /** All entries; those of one account in the order in which they were written. */
  entries(): Promise<readonly Entry[]>
  /** Removes all that `open` created and workers wrote. Idempotent. */
  drop(): Promise<void>
}

/** Where on a server the accounts are. */
export interface Site {
  /** As the venue's environment variable has it. */
  readonly url: string
  /** A name of the demo's own, which keeps it apart from everything else on the server. */
  readonly scope: string
}

/** One kind of server to play on. */
export interface Venue {
  /** What the kind of server is called. */
  readonly name: string
  /** The environment variable that names such a server. */
  readonly variable: string
  /** What is started when there is none. */
  readonly title: string
  /** In what of its own the demo plays on a server that it finds. */
  readonly apart: string
  start(): Promise<StartedServer>
  /** Nothing is sent before the first call. */
  officeAt(site: Site): LedgerOffice
}

/** A server that ends with the demo. */
export interface StartedServer extends AsyncDisposable {
  readonly url: string
  /** For the reader: what it is and where. */
  readonly description: string
}

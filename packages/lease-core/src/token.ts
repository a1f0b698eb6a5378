/** A checkable statement "this holder has this lease", perhaps no longer true. */
import type { Info } from './lease.ts'
import type { Term } from './term.ts'

/**
 * A statement about a lease. Making one says nothing; checking it does.
 */
export interface Token {
  readonly lease: string
  readonly holder: string
  /** Of the term that this token is about. undefined: any term of this holder will do (`manager.token`). */
  readonly fencingToken?: bigint | undefined
  /**
   * Resolves with what is known of the lease if the holder has it: without any I/O while this process relies on a grant
   * of its own and no hint casts doubt on it, else after exactly one read (concurrent checks share it).
   *
   * With a trapdoor key the substrate puts the same check into the caller's own transaction; which keys it understands
   * is in its own documentation. Where the key is a connection, what must be read is read over it, and what the driver throws there
   * reaches the caller as it is. `undefined` alone means "no key".
   *
   * @throws ErrNotHeld  surely not held at the moment of the check
   * @throws ErrNotValid lease or holder is not a valid name
   * @throws ErrTrapdoor the key is not one that this substrate understands
   * @throws ErrUnknown  the substrate could not be asked: infer nothing
   */
  check(trapdoorKey?: unknown): Promise<Info>
}

/** How a token asks. */
export interface TokenChecker {
  /** @param term the only one that will do; undefined: any of this holder */
  check(
    named: { readonly lease: string; readonly holder: string },
    term: Term | undefined,
    trapdoorKey: unknown,
  ): Promise<Info>
}

export class LeaseToken implements Token {
  readonly lease: string
  readonly holder: string
  readonly #checker: TokenChecker
  readonly #term: Term | undefined

  constructor(
    { lease, holder }: { readonly lease: string; readonly holder: string },
    checker: TokenChecker,
    term?: Term,
  ) {
    this.lease = lease
    this.holder = holder
    this.#checker = checker
    this.#term = term
  }

  /** Of the term, if the token is of one. */
  get fencingToken(): bigint | undefined {
    return this.#term?.fencingToken
  }

  check(trapdoorKey?: unknown): Promise<Info> {
    return this.#checker.check(this, this.#term, trapdoorKey)
  }
}

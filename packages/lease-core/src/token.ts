/** A statement "this holder has this lease", which `check()` verifies. */
import type { Info } from './lease.ts'
import { showAs } from './shown.ts'
import type { Term } from './term.ts'

/**
 * A statement "this holder has this lease". It may no longer be true: `check()` verifies it. Making a token sends nothing.
 */
export interface Token {
  /** The name of the lease. */
  readonly lease: string
  /** The name of the holder. */
  readonly holder: string
  /** Of the term of this token. undefined: any term of this holder passes (`manager.token`). */
  readonly fencingToken?: bigint | undefined
  /**
   * Resolves with what is known of the lease, if the holder has it. Sends nothing inside the trust window of a grant of this process,
   * unless a hint said that the lease was vacated. Otherwise it sends exactly one read; concurrent checks share it.
   *
   * With a trapdoor key the substrate puts the same check into the caller's own transaction. The page of each store lists its keys. If
   * the key is a connection, a read goes over that connection, and errors of its driver reach the caller unchanged. `undefined` means
   * "no key".
   *
   * Without a key a revocation may go unnoticed until the trust window ends. With a key the store is always asked.
   *
   * @throws ErrNotHeld  not held at the moment of the check: certain
   * @throws ErrNotValid lease or holder is not a valid name
   * @throws ErrTrapdoor the substrate does not understand the key: nothing is guarded
   * @throws ErrUnknown  the store could not be asked: infer nothing
   * @throws ErrStopped  the manager was stopped
   */
  check(trapdoorKey?: unknown): Promise<Info>
}

/** How a token checks. */
export interface TokenChecker {
  /** @param term the only term that passes; undefined: any term of this holder */
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

  /** Of the term of this token, if it has one. */
  get fencingToken(): bigint | undefined {
    return this.#term?.fencingToken
  }

  check(trapdoorKey?: unknown): Promise<Info> {
    return this.#checker.check(this, this.#term, trapdoorKey)
  }
}

showAs(LeaseToken, 'Token', ['lease', 'holder', 'fencingToken'])

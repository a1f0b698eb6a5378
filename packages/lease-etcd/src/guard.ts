/**
 * The trapdoor key: "this very term still stands" as a comparison in the caller's own transaction.
 *
 * Promise: what such a transaction does was committed while the term was in place. No release, expiry or takeover came
 * before it in the store's order, so no later term was granted before it. Time is no part of it, and no clock is asked.
 */
import { ErrTrapdoor, hasMethods, type Trapdoor } from 'lease-core'
import { notHeld } from 'lease-core/adapter'
import type { EtcdComparisons, EtcdTransactions } from './driver.ts'

/** One term of one lease, and the key that stands for it. */
export interface GuardedTerm {
  readonly key: string
  /** The `Etcd3`: over another one the same key may be in another cluster. */
  readonly place: object
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
}

/** A condition of a transaction: the arguments of etcd3's `client.if()`, and of `and()` after it. */
export type EtcdComparison = readonly [key: string, column: 'Create', comparator: '==', value: string]

/** Understands an `EtcdGuard`. */
export function etcdTrapdoor(term: GuardedTerm): Trapdoor {
  return async (key) => {
    if (key === undefined) return
    if (!isTermCollector(key)) {
      throw new ErrTrapdoor('this key is not understood: pass an EtcdGuard', { lease: term.lease, holder: term.holder })
    }
    key[ADD_TERM](term)
  }
}

/**
 * The method by which a guard is given a term. Registered, so that two copies of this package know each other's guards. The
 * number rises when `GuardedTerm` changes its shape.
 */
const ADD_TERM = Symbol.for('lease-etcd.EtcdGuard/2')

interface TermCollector {
  [ADD_TERM](term: GuardedTerm): void
}

function isTermCollector(key: unknown): key is TermCollector {
  return hasMethods(key, ADD_TERM)
}

/**
 * A trapdoor key that turns into conditions of a transaction:
 *
 *     const guard = new EtcdGuard()
 *     await token.check(guard)
 *     const result = await guard.if(etcd).then(etcd.put('balance').value('90')).commit()
 *     guard.assertHeld(result)
 *
 * Checked with several tokens, it demands that all of their terms stand. Only an earlier term of the same lease and holder, by a
 * client over the same `Etcd3`, is replaced by the later one. The keys are those of the `Etcd3` itself, not of a `namespace()` of it.
 */
export class EtcdGuard {
  #terms: readonly GuardedTerm[] = []

  static {
    const addTerm = function (this: EtcdGuard, term: GuardedTerm): void {
      this.#terms = [...this.#terms.filter((other) => !isReplaced(other, term)), term]
    }
    Object.defineProperty(this.prototype, ADD_TERM, { value: addTerm })
  }

  /**
   * One condition for each token that was checked, to put into a transaction with others.
   *
   * @throws ErrTrapdoor before the check
   */
  get comparisons(): readonly EtcdComparison[] {
    return this.#checked().map(({ key, fencingToken }) => [key, 'Create', '==', fencingToken.toString()])
  }

  /**
   * The condition of the one token that was checked: `etcd.if(...guard.comparison)`.
   *
   * @throws ErrTrapdoor before the check, and when several tokens were checked
   */
  get comparison(): EtcdComparison {
    const [first, second] = this.comparisons
    if (first === undefined || second !== undefined) {
      throw new ErrTrapdoor('several tokens were checked with this guard: use if() or comparisons')
    }
    return first
  }

  /**
   * Begins a transaction that demands all of the terms, as `etcd.if()` does; add conditions of your own with `and()`.
   *
   * @throws ErrTrapdoor before the check, and for a `namespace()`, whose transactions reach only keys of its own
   */
  if<Builder extends EtcdComparisons>(etcd: EtcdTransactions<Builder>): Builder {
    const [first, ...others] = this.comparisons
    if (first === undefined || etcd.prefix.length > 0) {
      throw new ErrTrapdoor('the leases are outside of this namespace(): begin the transaction with the Etcd3 itself')
    }
    const builder = etcd.if(...first)
    for (const other of others) builder.and(...other)
    return builder
  }

  /**
   * Throws unless the guarded transaction's conditions were met. With conditions of your own among them it cannot tell
   * which one failed: where that matters, read what they are about in `else()`.
   *
   * @throws ErrNotHeld they were not, and nothing of `then()` was done
   * @throws ErrTrapdoor this is no answer to a transaction
   */
  assertHeld(result: { readonly succeeded: boolean }): void {
    const terms = this.#checked()
    if (typeof result?.succeeded !== 'boolean') {
      throw new ErrTrapdoor('this is no answer to a transaction: pass what commit() resolves with')
    }
    if (result.succeeded) return
    const [term, ...others] = terms
    throw notHeld(term, others.length === 0 ? '' : `, or another of the ${terms.length} terms does not stand`)
  }

  #checked(): [GuardedTerm, ...GuardedTerm[]] {
    const [first, ...others] = this.#terms
    if (first === undefined) throw new ErrTrapdoor('nothing to guard yet: pass this EtcdGuard to token.check() first')
    return [first, ...others]
  }
}

/** The later term of the same lease, of the same holder in the same place, takes the place of this one. Everything else is demanded. */
function isReplaced(one: GuardedTerm, by: GuardedTerm): boolean {
  const isSame = one.key === by.key && one.holder === by.holder && one.place === by.place
  return isSame && one.fencingToken <= by.fencingToken
}

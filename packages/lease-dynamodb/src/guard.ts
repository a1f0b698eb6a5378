/**
 * The trapdoor key: "this very term still stands" as a ConditionCheck in the caller's own TransactWriteItems.
 *
 * Promise: what such a transaction does was committed while the term was in place. No release, expiry or takeover came before it in the order
 * of the store, so no later term was granted before it. Time is no part of it, and no clock is asked.
 */
import type { AttributeValue } from '@aws-sdk/client-dynamodb'
import { ErrTrapdoor, hasMethods, type Trapdoor } from 'lease-core'
import { notHeld } from 'lease-core/adapter'
import type { Item } from './driver.ts'
import type { Cancellation } from './explain.ts'
import { placeholders, type Placeholders } from './expressions.ts'
import { HASH, RANGE } from './layout.ts'

/** One term of one lease, and the item that stands for it. */
export interface GuardedTerm {
  readonly table: string
  readonly key: Item
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
}

/** A condition among the `TransactItems` of `TransactWriteItemsCommand`. */
export interface DynamoCheck {
  readonly ConditionCheck: ConditionCheck<AttributeValue>
}

/** A condition among the `TransactItems` of lib-dynamodb's `TransactWriteCommand`. */
export interface DynamoDocumentCheck {
  readonly ConditionCheck: ConditionCheck<string | bigint>
}

interface ConditionCheck<Value> extends Placeholders<Value> {
  TableName: string
  Key: Record<string, Value>
  ConditionExpression: string
}

/** Understands a `DynamoGuard`. */
export function dynamoTrapdoor(term: GuardedTerm): Trapdoor {
  return async (key) => {
    if (key === undefined) return
    if (!isTermCollector(key)) {
      const { lease, holder } = term
      throw new ErrTrapdoor('this key is not understood: pass a DynamoGuard', { lease, holder })
    }
    key[ADD_TERM](term)
  }
}

/**
 * The method by which a guard is given a term. Registered, so that two copies of this package know each other's guards. The number rises when
 * `GuardedTerm` changes its shape.
 */
const ADD_TERM = Symbol.for('lease-dynamodb.DynamoGuard/1')

interface TermCollector {
  [ADD_TERM](term: GuardedTerm): void
}

function isTermCollector(key: unknown): key is TermCollector {
  return hasMethods(key, ADD_TERM)
}

/**
 * A trapdoor key that turns into conditions of a transaction:
 *
 *     const guard = new DynamoGuard()
 *     await token.check(guard)
 *     const TransactItems = [...guard.checks, { Update: … }]
 *     await guard.transact(TransactItems, () => client.send(new TransactWriteItemsCommand({ TransactItems })))
 *
 * Checked with several tokens, it demands that all of their terms stand. Only an earlier term of the same lease and holder is replaced by the
 * later one.
 */
export class DynamoGuard {
  #terms: readonly GuardedTerm[] = []

  static {
    const addTerm = function (this: DynamoGuard, term: GuardedTerm): void {
      this.#terms = [...this.#terms.filter((other) => !isReplaced(other, term)), term]
    }
    Object.defineProperty(this.prototype, ADD_TERM, { value: addTerm })
  }

  /**
   * One item for each token that was checked, for the `TransactItems` of `TransactWriteItemsCommand`. DynamoDB takes 100 items in all, and no
   * transaction can check and write the same item.
   *
   * @throws ErrTrapdoor before the check
   */
  get checks(): readonly DynamoCheck[] {
    const attribute = (value: string | bigint): AttributeValue =>
      typeof value === 'bigint' ? { N: String(value) } : { S: value }
    return this.#checked().map((term) => ({ ConditionCheck: checkOf(term, attribute) }))
  }

  /** The same for the document client of lib-dynamodb: `TransactWriteCommand`. @throws ErrTrapdoor before the check */
  get documentChecks(): readonly DynamoDocumentCheck[] {
    return this.#checked().map((term) => ({ ConditionCheck: checkOf(term, (value) => value) }))
  }

  /**
   * Sends the transaction, and says so if it was cancelled because a term does not stand. Every other error is thrown as it is: also one of a
   * condition of yours, a conflict with another transaction, or throttling.
   *
   * @param items the `TransactItems` that `send` sends, in either form and in any order
   * @throws ErrNotHeld a term does not stand, and nothing was written; its `cause` is the error of the driver
   * @throws ErrTrapdoor a check of this guard is missing among the items; then nothing was sent
   */
  async transact<Output>(items: readonly object[], send: () => Promise<Output>): Promise<Output> {
    for (const term of this.#checked()) {
      const { lease, holder } = term
      if (!items.some((item) => isCheckOf(item, term))) {
        throw new ErrTrapdoor('a check is missing in the transaction: put all of guard.checks into it', {
          lease,
          holder,
        })
      }
    }
    try {
      return await send()
    } catch (error) {
      throw this.explain(error, items)
    }
  }

  /**
   * What the error of a transaction means: `ErrNotHeld` if the check of a term failed, and otherwise the error itself.
   *
   * @param items the `TransactItems` that were sent, in either form and in any order
   */
  explain(error: unknown, items: readonly object[]): unknown {
    const reasons = reasonsOf(error)
    for (const [index, item] of items.entries()) {
      if (reasons[index] !== 'ConditionalCheckFailed') continue
      const term = this.#terms.find((one) => isCheckOf(item, one))
      if (term === undefined) continue
      const failure = notHeld(term)
      failure.cause = error
      return failure
    }
    return error
  }

  #checked(): readonly GuardedTerm[] {
    if (this.#terms.length === 0) {
      throw new ErrTrapdoor('nothing to guard yet: pass this DynamoGuard to token.check() first')
    }
    return this.#terms
  }
}

/** Whether the same holder has the token of a later term of the same lease. Everything else is demanded. */
function isReplaced(one: GuardedTerm, by: GuardedTerm): boolean {
  const isSame = one.holder === by.holder && one.table === by.table && isSameKey(one.key, by.key)
  return isSame && one.fencingToken <= by.fencingToken
}

function isSameKey(one: Item, other: Item): boolean {
  return [HASH, RANGE].every((name) => one[name]?.S === other[name]?.S)
}

/** @param form makes of a text or a number what the client takes */
function checkOf<Value>(
  { table, key, holder, fencingToken }: GuardedTerm,
  form: (value: string | bigint) => Value,
): ConditionCheck<Value> {
  return {
    TableName: table,
    Key: Object.fromEntries([HASH, RANGE].map((name) => [name, form(key[name]?.S ?? '')])),
    ConditionExpression: '#h = :h AND #tk = :tk',
    ...placeholders(['h', 'tk'], { h: form(holder), tk: form(fencingToken) }),
  }
}

/** Whether an item of a transaction, in either form, is the check of this term. */
function isCheckOf(item: object, term: GuardedTerm): boolean {
  const { ConditionCheck: check } = item as { readonly ConditionCheck?: Partial<ConditionCheck<unknown>> | undefined }
  const { Key = {}, ExpressionAttributeValues = {} } = check ?? {}
  const expected = checkOf(term, String)
  const isSame = (given: Record<string, unknown>, texts: Record<string, string>): boolean =>
    Object.entries(texts).every(([name, text]) => plain(given[name]) === text)
  return (
    check?.TableName === expected.TableName &&
    isSame(Key, expected.Key) &&
    isSame(ExpressionAttributeValues, expected.ExpressionAttributeValues)
  )
}

/** A text or a number, whichever form it has. */
function plain(value: unknown): string {
  const { S, N } = (typeof value === 'object' && value !== null ? value : {}) as { S?: string; N?: string }
  return S ?? N ?? String(value)
}

/** The codes of a cancelled transaction, one for each of its items; without them in the error, those in its message. */
function reasonsOf(error: unknown): readonly string[] {
  if (!(error instanceof Error) || error.name !== 'TransactionCanceledException') return []
  const { CancellationReasons } = error as { readonly CancellationReasons?: readonly Cancellation[] | undefined }
  if (CancellationReasons !== undefined) return CancellationReasons.map(({ Code = '' }) => Code)
  return (/\[([\w, ]+)\]/.exec(error.message)?.[1] ?? '').split(',').map((code) => code.trim())
}

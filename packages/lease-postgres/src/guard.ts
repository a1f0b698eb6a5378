/**
 * Trapdoor keys: "this very term still stands" inside the caller's own transaction.
 *
 * Promise of both: if the COMMIT succeeds, it became durable before any later term of the lease was granted. No clock
 * is involved in that: the guard locks the lease's row FOR KEY SHARE until the transaction ends, and a takeover needs
 * it FOR UPDATE. Renewals pass. That the expiry goes by between guard and COMMIT is harmless.
 *
 * `ROLLBACK TO SAVEPOINT` past the guard drops its lock: guard outside of savepoints, or again after them.
 */
import { ErrNotHeld, ErrTrapdoor, hasMethods, notValid, type Trapdoor } from 'lease-core'
import { notHeld } from 'lease-core/adapter'
import type { PostgresTransaction } from './driver.ts'
import type { DatabaseFunction } from './function-text.ts'
import { entryOf } from './way-in.ts'

/** One term of one lease, and where to look for it. */
export interface GuardedTerm {
  readonly guard: DatabaseFunction
  /** The pool: over another one the same names may be those of another database, or of another schema. */
  readonly place: object
  readonly namespace: string
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
}

const NOT_UNDERSTOOD =
  'this key is not understood: pass a connection inside a transaction (an object with query(text, values)), or a SqlGuard'

/** Understands a connection inside a transaction of the caller, the transaction of an ORM, and a `SqlGuard`. */
export function postgresTrapdoor(term: GuardedTerm): Trapdoor {
  return async (key) => {
    if (key === undefined) return
    if (isTermCollector(key)) return key[ADD_TERM](term)
    const { transaction, instead = NOT_UNDERSTOOD } = entryOf(key)
    if (transaction === undefined) throw new ErrTrapdoor(instead, { lease: term.lease, holder: term.holder })
    await guardTransaction(transaction, term)
  }
}

const parametersOf = ({ namespace, lease, holder, fencingToken }: GuardedTerm): string[] => [
  namespace,
  lease,
  holder,
  fencingToken.toString(),
]

/** Whatever the path is, this is the function of the server. */
const XID = 'SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text AS answer'

/**
 * The guard as a statement of its own. Outside of a transaction its lock would be gone before the caller writes, so
 * that is found out for certain: by the status that the server sends with every answer, where the driver tells it, and
 * otherwise by a second statement that must see the transaction id which the first one drew.
 *
 * What the driver throws reaches the caller as it is: `40001` means "run the transaction again".
 */
async function guardTransaction(client: PostgresTransaction, term: GuardedTerm): Promise<void> {
  const { lease, holder } = term
  const xid = answerOf(await client.query(term.guard.call, parametersOf(term)), term)
  if (xid === null) throw notHeld(term)
  const status = client.getTransactionStatus?.() ?? undefined
  const inTransaction = status === undefined ? answerOf(await client.query(XID, []), term) === xid : status === 'T'
  if (!inTransaction) {
    throw new ErrTrapdoor(
      'this key is outside of a transaction, where a guard guards nothing: pass the connection between BEGIN and COMMIT (a pool never is)',
      { lease, holder },
    )
  }
}

/**
 * The column `answer` of the one row. A key that shows rows in another way is refused: what it shows could not be notified from a lease that
 * is not held.
 *
 * @throws ErrTrapdoor
 */
export function answerOf(
  result: { readonly rows: readonly unknown[] } | undefined,
  { lease, holder }: Checked,
): string | null {
  if (!Array.isArray(result?.rows)) {
    throw refused({ lease, holder }, 'does not answer with { rows }', wayIn('await rowsOf(text, values)'))
  }
  const [row] = result.rows as readonly unknown[]
  if (Array.isArray(row)) {
    throw refused(
      { lease, holder },
      'answers with arrays as rows',
      wayIn('(await arraysOf(text, values)).map(([answer]) => ({ answer }))'),
    )
  }
  const answer = isObject(row) && 'answer' in row ? (row['answer'] ?? null) : undefined
  if (answer === null || typeof answer === 'string') return answer
  throw changedAnswer({ lease, holder })
}

/** What a key answers with is not what the server said. */
export function changedAnswer(of: Checked): ErrTrapdoor {
  return refused(
    of,
    'does not answer with one row { answer } that has the text of the server',
    wayIn('await rowsOf(text, values)'),
  )
}

/** What is checked over a key. */
interface Checked {
  readonly lease: string
  readonly holder?: string | undefined
}

function refused(of: Checked, what: string, line: string): ErrTrapdoor {
  return new ErrTrapdoor(`query(text, values) of this key ${what}. Write: ${line}`, of)
}

const wayIn = (rows: string): string =>
  `await token.check({ query: async (text, values) => ({ rows: ${rows} }) }), where each row is an object by the names of the columns`

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

/** A predicate does not tell which of them is over. */
function notAllHeld(terms: readonly GuardedTerm[]): ErrNotHeld {
  const [first] = terms
  if (first !== undefined && terms.length === 1) return notHeld(first)
  const names = terms.map(({ lease, holder, fencingToken }) => `"${lease}" by "${holder}" with ${fencingToken}`)
  return new ErrNotHeld(`not all of these terms are held: ${names.join(', ')}`)
}

/**
 * The method by which a guard is given a term. Registered, so that two copies of this package know each other's guards. The
 * number rises when `GuardedTerm` changes its shape.
 */
const ADD_TERM = Symbol.for('lease-postgres.SqlGuard/2')

interface TermCollector {
  [ADD_TERM](term: GuardedTerm): void
}

function isTermCollector(key: unknown): key is TermCollector {
  return hasMethods(key, ADD_TERM)
}

/**
 * A trapdoor key that receives the guard as a predicate, to put into the WHERE of any statement:
 *
 *     const guard = new SqlGuard(3)                        // its parameters are $3 to $6
 *     await token.check(guard)
 *     const { rowCount } = await pool.query(
 *       `UPDATE account SET balance = balance - $1 WHERE id = $2 AND ${guard.text}`, [10, 'alice', ...guard.values])
 *     guard.assertHeld(rowCount)
 *
 * With query builders, by their `sql` tag: `.where(guard.with(sql<boolean>))` in Kysely and `.where(guard.with(sql))`
 * in Drizzle; they number the parameters.
 *
 * The predicate is true when the term that was checked still stands at the moment the statement runs; then it also
 * keeps the lease from being taken over until that statement's transaction ends. Checked by several tokens it demands all of
 * these terms, and takes four parameters for each. Only an earlier term of the same lease and holder, by a client over the same pool,
 * is replaced by the later one.
 */
export class SqlGuard {
  readonly #from: number
  #terms: readonly GuardedTerm[] = []

  static {
    const addTerm = function (this: SqlGuard, term: GuardedTerm): void {
      this.#terms = [...this.#terms.filter((other) => !isReplaced(other, term)), term]
    }
    Object.defineProperty(this.prototype, ADD_TERM, { value: addTerm })
  }

  /**
   * @param from the number of its first parameter; it takes four for each token that it is checked by
   * @throws ErrNotValid
   */
  constructor(from: number = 1) {
    if (!Number.isInteger(from) || from < 1 || from > 65_532) {
      throw notValid([{ argument: 'from', rule: 'must be a whole number between 1 and 65532', value: from }])
    }
    this.#from = from
  }

  /**
   * `(SELECT <function> IS NOT NULL)` for each term, with numbered parameters.
   *
   * @throws ErrTrapdoor before the check
   */
  get text(): string {
    return this.#predicate((nth) => `$${this.#from + nth}`)
  }

  /**
   * The values of the parameters, four for each term.
   *
   * @throws ErrTrapdoor before the check
   */
  get values(): string[] {
    return this.#checked().flatMap(parametersOf)
  }

  /**
   * The predicate as a fragment of a query builder or driver whose `sql` tag takes a template: the values become
   * parameters wherever the fragment ends up.
   *
   * @throws ErrTrapdoor before the check
   */
  with<Fragment>(sql: (strings: TemplateStringsArray, ...values: string[]) => Fragment): Fragment {
    const strings = this.#predicate(() => '\0').split('\0')
    // As of a template literal: some tags insist on it.
    const raw = Object.freeze([...strings])
    return sql(Object.freeze(Object.assign(strings, { raw })), ...this.values)
  }

  /**
   * Throws unless the guarded statement wrote something. Zero rows mean "not held" only where the rest of the WHERE
   * surely matches: a predicate cannot tell which part was false. Where it may not match, ask for the predicate alone
   * first, in the same transaction: `SELECT <predicate> AS held`.
   *
   * @param affected how many rows the statement wrote
   * @throws ErrNotHeld it wrote none
   * @throws ErrNotValid this is no number of rows
   */
  assertHeld(affected: number | bigint | null | undefined): void {
    const terms = this.#checked()
    if ((typeof affected !== 'bigint' && !Number.isInteger(affected)) || Number(affected) < 0) {
      throw notValid([{ argument: 'affected', rule: 'must be the number of rows that were written', value: affected }])
    }
    if (Number(affected) === 0) throw notAllHeld(terms)
  }

  #predicate(parameter: (nth: number) => string): string {
    const each = this.#checked().map(({ guard }, index) => {
      const parameters = [0, 1, 2, 3].map((offset) => parameter(4 * index + offset))
      return `(SELECT ${guard.with(parameters)} IS NOT NULL)`
    })
    return each.length === 1 ? each.join('') : `(${each.join(' AND ')})`
  }

  #checked(): readonly GuardedTerm[] {
    if (this.#terms.length === 0) {
      throw new ErrTrapdoor('nothing to guard yet: pass this SqlGuard to token.check() first')
    }
    return this.#terms
  }
}

/** The later term of the same lease, of the same holder in the same place, takes the place of this one. Everything else is demanded. */
function isReplaced(one: GuardedTerm, by: GuardedTerm): boolean {
  return (
    one.lease === by.lease &&
    one.holder === by.holder &&
    one.namespace === by.namespace &&
    one.guard.call === by.guard.call &&
    one.place === by.place &&
    one.fencingToken <= by.fencingToken
  )
}

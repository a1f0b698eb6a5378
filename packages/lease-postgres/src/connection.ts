/**
 * One connection for the length of one call, in the state in which it must be, and what its failures mean.
 *
 * A pool hands out connections as others have left them: in an open transaction, with a role or a time-out that they have set. An
 * answer counts only if this call alone has committed it. So a connection on which that is not certain is closed, which undoes
 * what was done there, and the call goes on with another.
 */
import { systemClock } from 'lease-core'
import { StoreFailure, withoutSecrets, type Call } from 'lease-core/adapter'
import type { PostgresPool, PostgresPoolClient } from './driver.ts'
import { Lender, type Loan } from './lender.ts'
import { watchStandbyWaits } from './standby-wait.ts'

/** So many connections in a row that somebody has left in a transaction are closed, then the call gives up. */
export const MOST_LEFT_OPEN = 100
/** So many connections that may be dead are closed for one call, where the pool does not say how many it has. */
const MOST_SILENT = 10

/** The statement ran in a transaction that somebody else had begun: its answer does not count. */
export class LeftOpen extends Error {}

/**
 * Runs the body on a connection of the pool, and again on another where that was not fit for it: what is run must bear that.
 * A connection is closed instead of given back when it is not fit, when it broke, or when an answer is overdue on it that would reach
 * the next borrower. The pool itself is never harmed.
 *
 * @throws why the call was given up when it was before anything was sent; otherwise what the driver throws
 */
export async function onConnection<T>(
  pool: PostgresPool,
  call: Call | undefined,
  body: (client: PostgresPoolClient) => Promise<T>,
): Promise<T> {
  const lender = Lender.of(pool)
  let sentMs = Number.NaN
  let givenUp: { readonly why: unknown } | undefined
  let loan: Loan | undefined
  const stopListening = onAbort(call, (why) => {
    givenUp = { why }
    // The error of a client that is closed: then nothing is kept.
    loan?.abandon(sentMs, { mayKeep: codeOf(why) === undefined })
  })
  try {
    let silentLeft = pool.options?.max ?? MOST_SILENT
    // Each connection of the pool may be one that somebody has left like this, but not two in a row that nobody had before.
    let setLeft = pool.options?.max ?? 1
    for (let leftOpen = 0, isSuspect = false; leftOpen < MOST_LEFT_OPEN;) {
      throwIfGivenUp(givenUp)
      loan = await lender.lend(call?.timeoutMs, () => givenUp === undefined)
      const { client } = loan
      if (givenUp !== undefined) loan.giveBack(false)
      throwIfGivenUp(givenUp)
      if (lender.mayBeDead(loan) && silentLeft-- > 0) {
        loan.giveBack(true)
        continue
      }
      sentMs = systemClock.monotonic()
      try {
        if (!isInTransaction(client)) {
          const assertWaited = watchStandbyWaits(client)
          const result = await body(client)
          lender.heard(client)
          assertWaited()
          // Given up in the meantime: nobody waits for it.
          if (givenUp !== undefined || !isInTransaction(client)) return result
        }
        leftOpen++
      } catch (error) {
        const code = codeOf(error) ?? ''
        const isLeftOpen = error instanceof LeftOpen || isInTransaction(client) || code === FAILED_TRANSACTION
        const isOfSession = OF_SESSION.test(code)
        loan.giveBack(isLeftOpen || isOfSession || !isAnswer(error))
        const isNew = lender.isNew(loan)
        const maySucceed = isLeftOpen || (isOfSession && (isNew ? !isSuspect : setLeft > 0))
        if (givenUp !== undefined || !maySucceed) throw error
        if (isLeftOpen) leftOpen++
        else if (isNew) isSuspect = true
        else setLeft--
      } finally {
        if (loan.giveBack(isInTransaction(client)) && givenUp !== undefined) lender.answeredLate()
      }
    }
    throw allLeftOpen()
  } finally {
    stopListening?.()
  }
}

/** What to say when `MOST_LEFT_OPEN` are closed. */
export function allLeftOpen(): Error {
  return new Error(
    `each of ${MOST_LEFT_OPEN} connections of the pool was in a transaction that somebody had left open: find who gives connections back without COMMIT or ROLLBACK`,
  )
}

/** By what the server last said; false also where the driver does not tell. */
export function isInTransaction(client: PostgresPoolClient): boolean {
  const status = client.getTransactionStatus?.()
  return status === 'T' || status === 'E'
}

/** Whether the driver tells in which state the connection is. */
export function tellsStatus(client: PostgresPoolClient): boolean {
  return (client.getTransactionStatus?.() ?? null) !== null
}

function throwIfGivenUp(givenUp: { readonly why: unknown } | undefined): void {
  if (givenUp !== undefined) throw givenUp.why
}

const FAILED_TRANSACTION = '25P02'
/** What a setting that somebody has left on the connection may lead to: its role, its path, read-only, a time-out. */
const OF_SESSION = /^(25...|42501|42883|42P01|3F000|57014)$/

/** Returns how to stop listening, if there is anything to stop. */
function onAbort(call: Call | undefined, listener: (why: unknown) => void): (() => void) | undefined {
  if (call === undefined) return undefined
  if (call.onAbort !== undefined) {
    call.onAbort(listener)
    return undefined
  }
  const { signal } = call
  const onAbort = (): void => listener(signal.reason)
  if (signal.aborted) onAbort()
  signal.addEventListener('abort', onAbort, { once: true })
  return () => signal.removeEventListener('abort', onAbort)
}

/** The SQLSTATE of an error, or the code of a system call, or undefined. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' ? code : undefined
}

/** Whether the server refused a statement on a connection that is still good: a SQLSTATE, and no `EPIPE`. */
function isAnswer(error: unknown): boolean {
  const code = codeOf(error)
  return code !== undefined && /^(?=.*\d)[0-9A-Z]{5}$/.test(code) && !/^(08|57P|XX)/.test(code)
}

/** Failures that say what to do about them. None of these was executed. */
const advice: Readonly<Record<string, string>> = {
  '42P01':
    'tables are missing, or of an earlier release: run migrate(), or the SQL of migrationSql(), with the same schema and table',
  '42883': 'the functions are missing: run migrate(), or the SQL of migrationSql(), with the same schema and table',
  '42703':
    'the tables are not as they should be: run migrate(), or the SQL of migrationSql(); if that does not help, on an empty name',
  '3F000': 'the schema is missing: run migrate(), or the SQL of migrationSql(), with the same schema and table',
  '42501':
    'this role lacks a right: it needs USAGE on the schema, EXECUTE on its functions, and SELECT, INSERT, UPDATE, DELETE on the tables',
  RLS: 'row level security may hide leases from this role: ALTER TABLE … DISABLE ROW LEVEL SECURITY, or give the role BYPASSRLS',
  '25006': 'the server or session is read-only (a standby?): connect to the primary (target_session_attrs=read-write)',
  '28P01': 'the server refused the credentials: check user and password',
  SASL: 'the server asks for a password, and the connection settings have none',
  '28000': 'the server refused this user: check the user and pg_hba.conf',
  '3D000': 'the database does not exist: create it, or correct its name in the connection settings',
  '22023': 'the server refuses a setting of the connection: correct `options` in the connection settings',
  '42704': 'the server does not know a setting of the connection: correct `options` in the connection settings',
  '53300': 'the server has no connection left: raise max_connections or make the pools smaller',
  '57P03': 'the server is starting up or shutting down',
  ECONNREFUSED: 'nothing listens at the address of the server: is it running?',
  ENOTFOUND: 'the host name of the server cannot be resolved',
}

/** Those that come back until somebody changes the set-up: tables, rights, user, password, database, settings. */
const OF_SET_UP = /^(42P01|42883|42703|3F000|42501|28P01|28000|3D000|22023|42704|SASL)$/

/** What `pg` says where the server asks for a password and none was given. */
const NO_PASSWORD = /^SASL: .*client password must be/

/** The error with advice in front, or the error itself where there is none to give; `cause` is always the original. */
export function explained(error: unknown): unknown {
  const code = error instanceof Error && NO_PASSWORD.test(error.message) ? 'SASL' : codeOf(error)
  const isHidden = code === '42501' && /row-level security/.test((error as Error).message)
  const words = code === undefined ? undefined : advice[isHidden ? 'RLS' : code]
  if (words === undefined) return error
  const detail = error instanceof Error && error.message !== '' ? error.message : code
  return new StoreFailure(withoutSecrets(`${words} (${detail})`), { cause: error, isSetUp: OF_SET_UP.test(code ?? '') })
}

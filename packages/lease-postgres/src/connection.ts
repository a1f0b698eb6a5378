/**
 * One connection of the pool for the length of one call, and what its failures mean.
 */
import type { Call } from 'lease-core'
import type { PostgresPool, PostgresPoolClient } from './driver.ts'

/**
 * Runs the body on a connection of the pool. A connection is closed instead of given back when the call is given up
 * (its answer would reach whoever comes next) or when it broke; the pool itself is never harmed.
 *
 * @throws why the call was given up when it was before anything was sent; otherwise what the driver throws
 */
export async function onConnection<T>(
  pool: PostgresPool,
  call: Call | undefined,
  body: (client: PostgresPoolClient) => Promise<T>,
): Promise<T> {
  tolerateIdleErrors(pool)
  let givenUp: { readonly why: unknown } | undefined
  const throwIfGivenUp = (): void => {
    if (givenUp !== undefined) throw givenUp.why
  }
  let loan: PostgresPoolClient | undefined
  const giveBack = (destroy: boolean): void => {
    const client = loan
    if (client === undefined) return
    loan = undefined
    client.release(destroy)
    // One that is destroyed may break once more before it is gone.
    if (!destroy) client.removeListener?.('error', ignore)
  }
  const unheed = onAbort(call, (why) => {
    givenUp = { why }
    giveBack(true)
  })
  try {
    throwIfGivenUp()
    const client = await pool.connect()
    loan = client
    // A connection on loan that breaks emits `error`; whatever it was doing rejects as well, which is enough.
    client.on?.('error', ignore)
    if (givenUp !== undefined) giveBack(false)
    throwIfGivenUp()
    const result = await body(client)
    giveBack(false)
    return result
  } catch (error) {
    giveBack(!isAnswer(error))
    throw error
  } finally {
    unheed?.()
  }
}

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

const ignore = (): void => {}
const tolerant = new WeakSet<PostgresPool>()

/**
 * An idle connection that breaks makes `pg.Pool` emit `error`, which ends the process when nobody listens. The pool
 * has dropped the connection by then and nothing is lost, so somebody listens.
 */
function tolerateIdleErrors(pool: PostgresPool): void {
  if (tolerant.has(pool)) return
  tolerant.add(pool)
  pool.on?.('error', ignore)
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
  '25006': 'the server or session is read-only (a standby?): connect to the primary (target_session_attrs=read-write)',
  '28P01': 'the server refused the credentials: check user and password',
  '28000': 'the server refused this user: check the user and pg_hba.conf',
  '3D000': 'the database does not exist: create it, or correct its name in the connection settings',
  '53300': 'the server has no connection left: raise max_connections or make the pools smaller',
  '57P03': 'the server is starting up or shutting down',
  ECONNREFUSED: 'nothing listens at the address of the server: is it running?',
  ENOTFOUND: 'the host name of the server cannot be resolved',
}

/** The error with advice in front, or the error itself where there is none to give; `cause` is always the original. */
export function explained(error: unknown): unknown {
  const code = codeOf(error)
  const words = code === undefined ? undefined : advice[code]
  if (words === undefined) return error
  const detail = error instanceof Error && error.message !== '' ? error.message : code
  return new Error(`${words} (${detail})`, { cause: error })
}

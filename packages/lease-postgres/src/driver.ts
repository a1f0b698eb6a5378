/**
 * The shape of the driver: only the methods that are called. `pg` fits as it is, and postgres.js by `postgres-js.ts`; another driver
 * can be wrapped.
 */

/** What a statement brought. */
export interface PostgresResult {
  // oxlint-disable-next-line typescript/no-explicit-any -- every driver declares its rows as it likes
  readonly rows: any[]
}

/** What the server says beside an answer. */
export interface PostgresNotice {
  /** The function of the server that says it, in every language the same. */
  readonly routine?: string | undefined
}

/** A connection on loan from the pool. `pg.PoolClient` fits. */
export interface PostgresPoolClient {
  // oxlint-disable-next-line typescript/no-explicit-any -- the driver's own type
  query(text: string, values?: any[]): Promise<PostgresResult>
  /** Gives the connection back; `true` closes it, which also makes the query under way reject. */
  release(destroy?: boolean): void
  on?(event: 'error', listener: (error: Error) => void): unknown
  on?(event: 'notice', listener: (notice: PostgresNotice) => void): unknown
  removeListener?(event: 'error', listener: (error: Error) => void): unknown
  /** What the server last said: `I` outside of a transaction, `T` or `E` inside; null when the driver cannot tell. New in `pg`. */
  getTransactionStatus?(): string | null
}

/** Where connections come from. `pg.Pool` fits. */
export interface PostgresPool {
  connect(): Promise<PostgresPoolClient>
  on?(event: 'error', listener: (error: Error) => void): unknown
  /** A connection was made, or is lent. */
  on?(event: 'connect' | 'acquire', listener: (client: Pick<PostgresPoolClient, 'on'>) => void): unknown
  /** Runs what listens to the pool. Without it, no connection is made beside the pool. */
  emit?(event: 'connect' | 'acquire' | 'release' | 'remove', ...values: unknown[]): unknown
  /** How `pg.Pool` makes its connections; used to make the one that listens, and those beside a pool that gives none. */
  readonly Client?: new (options: never) => PostgresListenClient
  readonly options?: { readonly max?: number | undefined }
  /** How many of its connections wait for a borrower. */
  readonly idleCount?: number
}

/** A connection of its own, for LISTEN. `pg.Client` fits. */
export interface PostgresListenClient {
  connect(): Promise<unknown>
  query(text: string): Promise<unknown>
  on(
    event: 'notification',
    listener: (message: { channel?: string | undefined; payload?: string | undefined }) => void,
  ): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'end', listener: () => void): unknown
  end(): Promise<void>
  /** In the place of `query('LISTEN …')`, where the driver keeps that to itself. */
  listen?(channel: string): Promise<unknown>
  unlisten?(channel: string): Promise<unknown>
}

/** One connection of postgres.js: `postgres(url, { max: 1 })`. */
export interface PostgresJs {
  unsafe(
    text: string,
    // oxlint-disable-next-line typescript/no-explicit-any -- the driver's own type
    values?: any[],
    options?: { prepare?: boolean },
  ): { raw(): PromiseLike<PostgresJsAnswer | readonly PostgresJsAnswer[]> }
  // oxlint-disable-next-line typescript/no-explicit-any -- the driver's own type
  typed(value: any, oid: number): unknown
  listen(
    channel: string,
    listener: (payload: string) => void,
    listening?: () => void,
  ): PromiseLike<{ readonly state?: PostgresJsKey | undefined; unlisten(): Promise<unknown> }>
  end(options?: { timeout?: number }): Promise<unknown>
  readonly options: {
    readonly max?: unknown
    readonly host?: readonly string[]
    readonly port?: readonly number[]
    readonly path?: unknown
    readonly ssl?: unknown
    readonly transform?: {
      readonly column?: { readonly from?: unknown }
      readonly value?: { readonly from?: unknown }
      readonly row?: { readonly from?: unknown }
    }
    readonly onclose?: ((connection: number) => void) | undefined
  }
}

/** Of a connection of postgres.js: by this key the server cancels. */
export interface PostgresJsKey {
  readonly pid?: number | null
  readonly secret?: number | null
}

/** The rows of a statement of postgres.js, each an array of the bytes of its fields. */
export interface PostgresJsAnswer extends Iterable<readonly unknown[]> {
  readonly command?: string
  readonly columns?: readonly { readonly name: string }[]
  readonly state?: PostgresJsKey | undefined
}

/** A connection inside a transaction of the caller. `pg.Client`, `pg.PoolClient` and PGlite's `Transaction` fit. */
export interface PostgresTransaction {
  // oxlint-disable-next-line typescript/no-explicit-any -- the driver's own type
  query(text: string, values: any[]): Promise<PostgresResult>
  /** What the server last said: `T` inside a transaction, `I` outside; null when the driver cannot tell. New in `pg`. */
  getTransactionStatus?(): string | null
}

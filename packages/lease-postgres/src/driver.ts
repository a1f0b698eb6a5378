/**
 * The shape of the driver: only the methods that are called. `pg` fits as it is; another driver can be wrapped.
 */

/** What a statement brought. */
export interface PostgresResult {
  // oxlint-disable-next-line typescript/no-explicit-any -- every driver declares its rows as it likes
  readonly rows: any[]
}

/** A connection on loan from the pool. `pg.PoolClient` fits. */
export interface PostgresPoolClient {
  // oxlint-disable-next-line typescript/no-explicit-any -- the driver's own type
  query(text: string, values?: any[]): Promise<PostgresResult>
  /** Gives the connection back; `true` closes it, which also makes the query under way reject. */
  release(destroy?: boolean): void
  on?(event: 'error', listener: (error: Error) => void): unknown
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
}

/** A connection inside a transaction of the caller. `pg.Client`, `pg.PoolClient` and PGlite's `Transaction` fit. */
export interface PostgresTransaction {
  // oxlint-disable-next-line typescript/no-explicit-any -- the driver's own type
  query(text: string, values: any[]): Promise<PostgresResult>
  /** What the server last said: `T` inside a transaction, `I` outside; null when the driver cannot tell. New in `pg`. */
  getTransactionStatus?(): string | null
}

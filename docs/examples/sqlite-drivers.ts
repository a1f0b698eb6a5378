/** Connections to SQLite by the drivers that this Node has, for tests of the adapter. */
import Database from 'libsql'
import type { SqliteConnection } from './sqlite.ts'

export interface OpenConnection extends SqliteConnection {
  close(): unknown
}

export type SqliteDriver = 'libsql' | 'node:sqlite'

interface NodeSqlite {
  readonly DatabaseSync: new (file: string) => OpenConnection
}

const nodeSqlite = process.getBuiltinModule('node:sqlite' as string) as NodeSqlite | undefined

/** libsql runs on each Node, `node:sqlite` exists from Node 22 on. */
export const sqliteDrivers: readonly SqliteDriver[] = nodeSqlite === undefined ? ['libsql'] : ['libsql', 'node:sqlite']

/** Opens a connection. Creates the file if it does not exist. */
export function openSqlite(driver: SqliteDriver, file: string): OpenConnection {
  if (driver === 'libsql') return new Database(file)
  if (nodeSqlite === undefined) throw new Error(`Node ${process.versions.node} has no node:sqlite`)
  return new nodeSqlite.DatabaseSync(file)
}

/** A connection that can be closed and opened again, as by a restart. Commits are not synced to the disk: no test cuts the power. */
export class ReopeningConnection implements OpenConnection {
  readonly #open: () => OpenConnection
  #connection: OpenConnection

  constructor(driver: SqliteDriver, file: string) {
    this.#open = () => {
      const connection = openSqlite(driver, file)
      connection.exec('PRAGMA busy_timeout = 0; PRAGMA synchronous = OFF')
      return connection
    }
    this.#connection = this.#open()
  }

  exec(sql: string): unknown {
    return this.#connection.exec(sql)
  }

  prepare(sql: string): ReturnType<SqliteConnection['prepare']> {
    return this.#connection.prepare(sql)
  }

  close(): void {
    this.#connection.close()
  }

  reopen(): void {
    this.#connection = this.#open()
  }
}

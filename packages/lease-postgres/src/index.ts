/** lease-core on PostgreSQL. */
export { postgresClient } from './postgres-client.ts'
export { PostgresSubstrate } from './postgres-substrate.ts'
export type { PostgresOptions, PostgresSubstrateOptions } from './options.ts'
export { migrate, migrationSql, type MigrateOptions, type Migration } from './migrate.ts'
export type { TableOptions } from './schema.ts'
export { collect, type CollectOptions } from './collect.ts'
export { SqlGuard } from './guard.ts'
export { inTransaction, type ConnectionOf, type TransactionPool } from './transaction.ts'
export type { OpenPostgresJs } from './postgres-js.ts'
export type {
  PostgresJs,
  PostgresJsAnswer,
  PostgresJsKey,
  PostgresListenClient,
  PostgresPool,
  PostgresPoolClient,
  PostgresResult,
  PostgresTransaction,
} from './driver.ts'

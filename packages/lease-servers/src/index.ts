export { Den } from './process.ts'
export { type Postgres, type PostgresOptions, type PostgresOrigin, startPostgres } from './postgres.ts'
export { type Protocol, postgresProtocol, type Proxy, type ProxyCounters, startProxy } from './proxy.ts'
export { type FreshDatabase, freshDatabase, type PostgresTarget, postgresTargets } from './targets.ts'

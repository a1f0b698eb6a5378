/** Leases in Nest: a module with one Manager, and methods that run under a lease. */
export { LeaseModule } from './lease-module.ts'
export type { LeaseAsyncOptions, LeaseOptions } from './lease-module.ts'
export { Lease } from './lease.ts'
export type { LeaseDecoratorOptions } from './lease.ts'
export { currentLease } from './works.ts'
export type { LeaseWork } from './works.ts'

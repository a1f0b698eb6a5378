/** Adapters for the schedulers of Node: each slot of a job runs once in the whole fleet. Contains no scheduler. */
export { runCoordinator } from './run-coordinator.ts'
export type { FleetCoordinator, RunCoordinatorOptions, TaskContext } from './run-coordinator.ts'
export { cronerSlot } from './croner-slot.ts'
export type { CronerJob } from './croner-slot.ts'
export { cronSlot } from './cron-slot.ts'
export type { CronJobLike } from './cron-slot.ts'

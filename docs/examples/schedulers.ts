/** The same job on each scheduler: each slot runs once in the whole fleet. */
import { CronJob } from 'cron'
import { Cron } from 'croner'
import { cronerSlot, cronSlot, runCoordinator } from 'lease-cron'
import type { OncePer } from 'lease-recipes'
import { schedule, type ScheduledTask } from 'node-cron'

export type Send = (signal: AbortSignal | undefined) => Promise<void>

export function withNodeCron(once: OncePer, send: Send): ScheduledTask {
  const coordinator = runCoordinator(once)

  return schedule('0 3 * * *', (context) => send(coordinator.runOf(context)?.signal), {
    name: 'report', // the same in every process
    distributed: true,
    runCoordinator: coordinator,
    distributedLease: 600_000, // longer than the task takes
    timezone: 'Europe/Berlin',
  })
}

export function withCroner(once: OncePer, send: Send): Cron {
  const onError = (error: unknown): void => console.error('the report', error)

  return new Cron('0 3 * * *', { timezone: 'Europe/Berlin', catch: onError }, async (job: Cron) => {
    await once.run('report', cronerSlot(job), ({ signal }) => send(signal))
  })
}

export function withCron(once: OncePer, send: Send): CronJob {
  return CronJob.from({
    cronTime: '0 3 * * *',
    timeZone: 'Europe/Berlin',
    start: true,
    errorHandler: (error) => console.error('the report', error),
    async onTick() {
      await once.run('report', cronSlot(this), ({ signal }) => send(signal))
    },
  })
}

/** When the process starts: runs the last slot that was due, unless it ran. */
export async function catchUp(once: OncePer, job: Cron, send: Send): Promise<boolean> {
  const outcome = await once.run('report', cronerSlot(job), ({ signal }) => send(signal))

  return outcome.ran
}

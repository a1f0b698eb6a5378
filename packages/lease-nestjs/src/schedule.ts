/** `@CronOncePer`: a job of @nestjs/schedule that runs once per slot in the whole fleet. */
import { Cron, SchedulerRegistry, type CronOptions } from '@nestjs/schedule'
import { notValid } from 'lease-core'
import { cronSlot } from 'lease-cron'
import { OncePer, type RunOptions } from 'lease-recipes'
import { decorate, type Method } from './decorated.ts'
import { injectOnce, injectWorks, worksOf } from './tokens.ts'

/** The options of `Cron`, with a name, and of a run of `OncePer`. */
export type CronOncePerOptions = CronOptions & RunOptions & { readonly name: string }

const REGISTRY = Symbol.for('lease-nestjs.registry')

/**
 * `@Cron` of @nestjs/schedule, but each fire time runs in one process of the fleet, although every process schedules it and their clocks
 * differ. Fire times are compared by the schedule, not by the clocks. The application imports `ScheduleModule.forRoot()` and `LeaseModule`.
 * In the method `currentLease()` has the signal and the fencing token of the run.
 *
 *     @CronOncePer('0 3 * * *', { name: 'report', timeZone: 'Europe/Berlin' })
 *     async report(): Promise<void> { … }
 *
 * @throws ErrNotValid when the class is defined: the job has no name, by which the processes of the fleet know it; an option of the run
 *   breaks a rule
 */
export function CronOncePer(cronTime: Parameters<typeof Cron>[0], options: CronOncePerOptions) {
  const { atMost, atLeast, renew, retry, ...ofCron } = options ?? {}
  const { name } = ofCron
  if (typeof name !== 'string' || name === '') {
    const rule = "must be the name of the job in the whole fleet: @CronOncePer('0 3 * * *', { name: 'report' })"
    throw notValid([{ argument: 'name', rule, value: name }])
  }
  const ofRun = { atMost, atLeast, renew, retry }
  OncePer.checkOptions(ofRun)
  return <T>(target: object, key: string | symbol, descriptor: TypedPropertyDescriptor<Method<[], T>>): void => {
    decorate(target, key, descriptor, async (instance, _args, method) => {
      const registry = (instance as { readonly [REGISTRY]?: SchedulerRegistry })[REGISTRY]
      const works = worksOf(instance)
      const slot = cronSlot((registry as SchedulerRegistry).getCronJob(name))
      return works.oncePer(name, slot, ofRun, method)
    })
    Cron(cronTime, ofCron as CronOptions)(target, key, descriptor as PropertyDescriptor)
    injectWorks(target)
    injectOnce(target, REGISTRY, SchedulerRegistry)
  }
}

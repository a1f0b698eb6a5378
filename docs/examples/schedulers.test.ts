import { type INestApplicationContext, Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { ScheduleModule, SchedulerRegistry } from '@nestjs/schedule'
import { expect } from 'chai'
import { Cron } from 'croner'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { OncePer } from 'lease-recipes'
import { useFakeTimers, type SinonFakeTimers } from 'sinon'
import { Reports } from './nest-schedule.ts'
import { catchUp, withCron, withCroner, withNodeCron } from './schedulers.ts'

/** An application with its jobs, as in a process of its own. */
function nest(once: OncePer, send: () => Promise<void>): Promise<INestApplicationContext> {
  class Application {
    readonly once = once
  }
  const newReports = (registry: SchedulerRegistry): Reports => Object.assign(new Reports(once, registry), { send })
  Module({
    imports: [ScheduleModule.forRoot()],
    providers: [{ provide: Reports, useFactory: newReports, inject: [SchedulerRegistry] }],
  })(Application)
  return NestFactory.createApplicationContext(Application, { logger: false })
}

describe('example: a job on four schedulers', () => {
  const leases = new TestClock()
  let timers: SinonFakeTimers
  let managers: Manager[]
  let fleet: OncePer[]
  let sent: number

  beforeEach(() => {
    const toFake = ['Date', 'setTimeout', 'clearTimeout'] as const
    timers = useFakeTimers({ now: Date.UTC(2026, 2, 1, 1, 59, 58), toFake: [...toFake] })
    const store = new MemoryStore({ clock: leases })
    managers = [1, 2, 3].map(() => new Manager({ client: memoryClient({ store, clock: leases }), clock: leases }))
    fleet = managers.map((manager) => new OncePer({ manager }))
    sent = 0
  })
  afterEach(async () => {
    timers.restore()
    await Promise.all(managers.map((manager) => manager.stop()))
  })

  const send = async (): Promise<void> => void sent++

  /** From two seconds before three o'clock to two seconds after it. */
  async function threeOClock(): Promise<void> {
    for (let n = 0; n < 4; n++) {
      await timers.tickAsync(1000)
      await leases.settle()
    }
  }

  it('runs once with node-cron', async () => {
    const tasks = fleet.map((once) => withNodeCron(once, send))
    await threeOClock()
    expect(sent).to.equal(1)
    for (const task of tasks) await task.destroy()
  })

  it('runs once with croner', async () => {
    const tasks = fleet.map((once) => withCroner(once, send))
    await threeOClock()
    expect(sent).to.equal(1)
    for (const task of tasks) task.stop()
  })

  it('runs once with cron', async () => {
    const tasks = fleet.map((once) => withCron(once, send))
    await threeOClock()
    expect(sent).to.equal(1)
    for (const task of tasks) void task.stop()
  })

  it('runs once with @nestjs/schedule', async () => {
    const applications = await Promise.all(fleet.map((once) => nest(once, send)))
    await threeOClock()
    expect(sent).to.equal(1)
    for (const application of applications) await application.close()
  })

  it('runs once when the fleet starts after the hour', async () => {
    const job = new Cron('0 3 * * *', { timezone: 'Europe/Berlin', paused: true })
    const outcomes: boolean[] = []
    for (const once of fleet) outcomes.push(await catchUp(once, job, send))
    expect([outcomes, sent]).to.deep.equal([[true, false, false], 1])
    job.stop()
  })
})

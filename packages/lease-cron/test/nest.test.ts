import { Module, type INestApplicationContext } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { Cron, ScheduleModule, SchedulerRegistry } from '@nestjs/schedule'
import { expect } from 'chai'
import { cronSlot } from 'lease-cron'
import type { OncePer } from 'lease-recipes'
import { Fleet } from './fleet.ts'

describe('cronSlot for @nestjs/schedule', () => {
  let fleet: Fleet
  let applications: INestApplicationContext[]
  let ran: string[]

  beforeEach(() => {
    fleet = new Fleet()
    applications = []
    ran = []
  })
  afterEach(async () => {
    for (const application of applications) await application.close()
    await fleet.close()
  })

  /** An application with a job of its own, as if in another process. */
  async function started(once: OncePer, who: string): Promise<INestApplicationContext> {
    class Reports {
      readonly registry: SchedulerRegistry

      constructor(registry: SchedulerRegistry) {
        this.registry = registry
      }

      async report(): Promise<void> {
        const slot = cronSlot(this.registry.getCronJob('report'))
        await once.run('report', slot, ({ slot }) => void ran.push(`${who} ${slot.slice(17, 19)}`))
      }
    }
    class Application {
      readonly who = who
    }
    // As decorators do, without the syntax: it would need options of the compiler.
    const method = Object.getOwnPropertyDescriptor(Reports.prototype, 'report') as TypedPropertyDescriptor<unknown>
    Cron('*/10 * * * * *', { name: 'report', timeZone: 'Europe/Berlin' })(Reports.prototype, 'report', method)
    Module({
      imports: [ScheduleModule.forRoot()],
      providers: [
        {
          provide: Reports,
          useFactory: (registry: SchedulerRegistry) => new Reports(registry),
          inject: [SchedulerRegistry],
        },
      ],
    })(Application)
    const application = await NestFactory.createApplicationContext(Application, { logger: false })
    applications.push(application)
    return application
  }

  it('each slot of a job runs once in the fleet', async () => {
    for (const who of ['a', 'b', 'c']) await started(fleet.process(), who)
    for (let n = 0; n < 30; n++) await fleet.pass(1000)
    expect(ran.map((run) => run.slice(2))).to.deep.equal(['00', '10', '20'])
  })
})

import { Injectable, Module, type INestApplicationContext } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { ScheduleModule, SchedulerRegistry } from '@nestjs/schedule'
import { expect } from 'chai'
import { ErrNotValid, ErrStopped, Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { currentLease, LeaseModule } from 'lease-nestjs'
import { CronOncePer } from 'lease-nestjs/schedule'
import { spy, useFakeTimers, type SinonFakeTimers } from 'sinon'

const ran: { readonly slot: string; readonly fencingToken: bigint }[] = []

@Injectable()
class Reports {
  @CronOncePer('*/10 * * * * *', { name: 'report', timeZone: 'Europe/Berlin', atLeast: { hours: 1 } })
  async report(): Promise<void> {
    const { fencingToken, name } = currentLease()
    ran.push({ slot: `${name} ${new Date().toISOString().slice(17, 19)}`, fencingToken })
  }
}

describe('CronOncePer', () => {
  let timers: SinonFakeTimers
  let clock: TestClock
  let managers: Manager[]
  let applications: INestApplicationContext[]

  beforeEach(() => {
    const toFake = ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] as const
    timers = useFakeTimers({ now: Date.UTC(2026, 2, 1, 2, 59, 59), toFake: [...toFake] })
    clock = new TestClock()
    managers = []
    applications = []
    ran.length = 0
  })
  afterEach(async () => {
    timers.restore()
    for (const application of applications) await application.close()
    for (const manager of managers) await manager.stop()
  })

  it('each fire time runs in one process of the fleet, with a rising fencing token', async () => {
    const store = new MemoryStore({ clock })
    for (let process = 0; process < 3; process++) {
      const manager = new Manager({ client: memoryClient({ store, clock }), clock })
      managers.push(manager)
      const imports = [ScheduleModule.forRoot(), LeaseModule.forRoot({ manager })]
      @Module({ imports, providers: [Reports] })
      class Application {}
      applications.push(await NestFactory.createApplicationContext(Application, { logger: false }))
    }
    for (let second = 0; second < 30; second++) {
      await timers.tickAsync(1000)
      await clock.settle()
    }
    expect(ran.map(({ slot }) => slot)).to.deep.equal(['report 00', 'report 10', 'report 20'])
    const tokens = ran.map(({ fencingToken }) => fencingToken)
    expect(tokens).to.deep.equal([...new Set(tokens)].toSorted((a, b) => (a < b ? -1 : 1)))
  })

  it('a job without a name is refused when the class is defined', () => {
    expect(() => CronOncePer('0 3 * * *', {} as never)).to.throw(ErrNotValid, "{ name: 'report' }")
    expect(() => CronOncePer('0 3 * * *', undefined as never)).to.throw(ErrNotValid, 'name must be')
  })

  for (const option of ['atLeast', 'atMost', 'renew', 'retry']) {
    it(`${option} that breaks a rule is refused when the class is defined`, () => {
      const job = { name: 'report', [option]: 'soon' } as never
      expect(() => CronOncePer('0 3 * * *', job)).to.throw(ErrNotValid, `${option} must be`)
    })
  }

  it('a run has the options of the decorator', async () => {
    const manager = new Manager({ client: memoryClient({ clock }), clock })
    managers.push(manager)
    const hold = spy(manager, 'hold')
    @Injectable()
    class Long {
      @CronOncePer('0 3 * * *', { name: 'long', atMost: { minutes: 7 }, renew: false })
      async run(): Promise<void> {}
    }
    const imports = [ScheduleModule.forRoot(), LeaseModule.forRoot({ manager })]
    @Module({ imports, providers: [Long] })
    class Application {}
    const application = await NestFactory.createApplicationContext(Application, { logger: false })
    applications.push(application)
    await application.get(Long).run()
    const [, , options] = hold.firstCall.args
    expect(options).to.include({ duration: 7 * 60_000, renewEvery: false })
  })

  it('a run ends with the application, and the schedule has the options of Cron', async () => {
    const manager = new Manager({ client: memoryClient({ clock }), clock })
    managers.push(manager)
    const begun: string[] = []
    @Injectable()
    class Nightly {
      @CronOncePer('0 3 * * *', { name: 'nightly', timeZone: 'Europe/Berlin' })
      async run(): Promise<unknown> {
        const { signal, name } = currentLease()
        begun.push(name)
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        return signal.reason as unknown
      }
    }
    const imports = [ScheduleModule.forRoot(), LeaseModule.forRoot({ manager })]
    @Module({ imports, providers: [Nightly] })
    class Application {}
    const application = await NestFactory.createApplicationContext(Application, { logger: false })
    const { cronTime } = application.get(SchedulerRegistry).getCronJob('nightly')
    expect(cronTime.timeZone).to.equal('Europe/Berlin')
    const running = application.get(Nightly).run()
    while (begun.length === 0) await new Promise((resolve) => setImmediate(resolve))
    await application.close()
    expect(await running).to.be.instanceOf(ErrStopped)
  })
})

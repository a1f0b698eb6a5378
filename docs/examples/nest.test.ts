import { Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { ScheduleModule } from '@nestjs/schedule'
import { expect } from 'chai'
import { FakeLeases } from 'lease-core/testing'
import { LeaseModule } from 'lease-nestjs'
import { redisTargets } from 'lease-servers'
import { Orders, Shop } from './nest.ts'

describe('example: a Nest application', () => {
  for (const target of redisTargets('server')) {
    it(`starts, ships under a lease, and ends in order, on ${target.name}`, async () => {
      const before = process.env['REDIS_URL']
      process.env['REDIS_URL'] = target.url
      const application = await NestFactory.createApplicationContext(Shop, { logger: false, abortOnError: false })
      if (before === undefined) delete process.env['REDIS_URL']
      else process.env['REDIS_URL'] = before
      application.enableShutdownHooks()
      const orders = application.get(Orders)
      await orders.ship('42', 'Berlin')
      await orders.report()
      expect(orders.shipped).to.deep.equal(['42 to Berlin with bigint', 'report to accounting with bigint'])
      await application.close()
    })
  }

  it('is tested with leases that another has', async () => {
    await using leases = new FakeLeases()
    const imports = [ScheduleModule.forRoot(), LeaseModule.forRoot({ manager: leases.manager })]
    @Module({ imports, providers: [Orders] })
    class Application {}
    const application = await NestFactory.createApplicationContext(Application, { logger: false })
    const orders = application.get(Orders)

    await leases.take('order/42')
    const shipping = orders.ship('42', 'Berlin') // waits
    await leases.free('order/42')
    await shipping
    expect(orders.shipped).to.have.length(1)
    await application.close()
  })
})

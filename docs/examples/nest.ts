/** Leases in a Nest application. */
import { Injectable, Module } from '@nestjs/common'
import { ScheduleModule } from '@nestjs/schedule'
import { Redis } from 'ioredis'
import { currentLease, Lease, LeaseModule } from 'lease-nestjs'
import { CronOncePer } from 'lease-nestjs/schedule'
import { redisClient } from 'lease-redis'

@Injectable()
export class Orders {
  readonly shipped: string[] = []

  @Lease({ name: (order: string) => `order/${order}`, wait: { seconds: 10 }, onBusy: 'skip' })
  async ship(order: string, address: string): Promise<void> {
    const { signal, fencingToken } = currentLease() // of this call
    await this.send(order, address, fencingToken, signal)
  }

  @CronOncePer('0 3 * * *', { name: 'report', timeZone: 'Europe/Berlin' })
  async report(): Promise<void> {
    await this.send('report', 'accounting', currentLease().fencingToken, currentLease().signal)
  }

  async send(what: string, where: string, fencingToken: bigint, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    this.shipped.push(`${what} to ${where} with ${typeof fencingToken}`)
  }
}

const leases = LeaseModule.forRootAsync({
  useFactory: () => {
    const redis = new Redis(process.env['REDIS_URL'] ?? '')
    return { client: redisClient({ redis, namespace: 'shop' }), close: () => redis.quit() }
  },
})

@Module({ imports: [ScheduleModule.forRoot(), leases], providers: [Orders] })
export class Shop {}

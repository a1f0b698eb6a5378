/** A Nest application in a process of its own, for `processes.test.ts`. Its parent calls a method by its name; SIGTERM ends it. */
import { Injectable, Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { Redis } from 'ioredis'
import { sleep, systemClock } from 'lease-core'
import { currentLease, Lease, LeaseModule } from 'lease-nestjs'
import { redisClient } from 'lease-redis'

const [, , url = '', namespace = ''] = process.argv

function tell(message: string): void {
  process.send?.(message)
}

@Injectable()
class Reports {
  /** Works until it is aborted. */
  @Lease({ name: 'report', duration: { minutes: 10 } })
  async work(): Promise<string> {
    const { signal, fencingToken } = currentLease()
    tell(`works with ${fencingToken}`)
    await sleep(systemClock, 600_000, signal).catch(() => {})
    return 'was aborted'
  }

  @Lease({ name: 'report', onBusy: 'skip' })
  async short(): Promise<string> {
    return `ran with ${currentLease().fencingToken}`
  }
}

const useFactory = () => {
  const redis = new Redis(url)
  return { client: redisClient({ redis, namespace }), close: () => redis.quit() }
}
@Module({ imports: [LeaseModule.forRootAsync({ useFactory })], providers: [Reports] })
class Application {}

const application = await NestFactory.createApplicationContext(Application, { logger: false })
application.enableShutdownHooks()
const reports = application.get(Reports)
process.on('message', (method: 'work' | 'short') => {
  reports[method]().then(
    (result: string | undefined) => tell(result ?? 'skipped'),
    (error: unknown) => tell(String(error)),
  )
})
tell('ready')

import type { Adapter, Kept } from '../../bench.ts'
import { redisPeer } from './peer.ts'

export const effectDistributedLock: Adapter = redisPeer({
  name: 'effect-distributed-lock',
  dependency: 'effect-distributed-lock',
  about: 'its semaphore of one permit, notified of releases over a connection for each waiter',
  can: ['one', 'keep', 'queue'],
  async connect(redis, prefix) {
    const { Effect, Exit, Fiber, ManagedRuntime, Option, Scope } = await import('effect')
    const { DistributedSemaphore, RedisBacking } = await import('effect-distributed-lock')
    const runtime = ManagedRuntime.make(RedisBacking.layer(redis, { keyPrefix: prefix }))
    const taken = async (lease: string, ttl: number, how: 'take' | 'tryTake'): Promise<Kept> => {
      const scope = Effect.runSync(Scope.make())
      const take = Effect.gen(function* () {
        const semaphore = yield* DistributedSemaphore.make(lease, { limit: 1, ttl })
        if (how === 'take') return yield* semaphore.take(1)
        const granted = yield* semaphore.tryTake(1)
        if (Option.isNone(granted)) throw new Error(`${lease} is taken`)
        return granted.value
      })
      const keeping = await runtime.runPromise(Scope.extend(take, scope))
      return {
        get held() {
          return Option.isNone(Effect.runSync(Fiber.poll(keeping)))
        },
        release: () => runtime.runPromise(Scope.close(scope, Exit.void)),
      }
    }
    const unkept = async (lease: string, ttl: number, how: 'take' | 'tryTake') => {
      const kept = await taken(lease, ttl, how)
      return { release: () => kept.release() }
    }
    return {
      acquire: (lease, durationMs) => unkept(lease, durationMs, 'tryTake'),
      wait: (lease, durationMs) => unkept(lease, durationMs, 'take'),
      keep: (lease, durationMs) => taken(lease, durationMs, 'tryTake'),
      close: () => runtime.dispose(),
    }
  },
})

import { DynamoDBDocument } from '@aws-sdk/lib-dynamodb'
import type { Adapter } from '../../bench.ts'
import { ASK_AGAIN_MS, dynamodbPeer } from './peer.ts'

/** With `trustLocalTime`: without it, a claim of what another holds sleeps for the whole duration of the lease, and cannot be a try. */
export const deliveryhero: Adapter = dynamodbPeer({
  name: 'deliveryhero',
  dependency: '@deliveryhero/dynamodb-lock',
  about: `trustLocalTime: clocks decide what has lapsed; who waits asks every ${ASK_AGAIN_MS} ms`,
  can: ['one', 'keep', 'queue'],
  handOffSeconds: 0.3,
  async connect(dynamodb, prefix, { lockTable }) {
    const { dynamoDBLockClientFactory } = await import('@deliveryhero/dynamodb-lock')
    let renewals = 0
    const locks = dynamoDBLockClientFactory(
      DynamoDBDocument.from(dynamodb),
      { tableName: lockTable },
      (_severity, message) => {
        if (message.startsWith('Lease prolonged')) renewals++
      },
    )
    const locked = (lease: string, options: object): ReturnType<typeof locks.lock> =>
      locks.lock(prefix, lease, { trustLocalTime: true, prolongLeaseEnabled: false, ...options })
    return {
      async acquire(lease, leaseDurationInMs) {
        const lock = await locked(lease, { leaseDurationInMs, maxRetryCount: 0, waitDurationInMs: 0 })
        return { release: () => locks.releaseLock(lock) }
      },
      async wait(lease, leaseDurationInMs) {
        const lock = await locked(lease, { leaseDurationInMs, waitDurationInMs: ASK_AGAIN_MS })
        return { release: () => locks.releaseLock(lock) }
      },
      async keep(lease, leaseDurationInMs) {
        const prolonged = { prolongLeaseEnabled: true, prolongEveryMs: leaseDurationInMs / 3 }
        const lock = await locked(lease, { leaseDurationInMs, maxRetryCount: 0, waitDurationInMs: 0, ...prolonged })
        return {
          get held() {
            return lock.isAcquired
          },
          release: () => locks.releaseLock(lock),
        }
      },
      renewals: () => renewals,
    }
  },
})

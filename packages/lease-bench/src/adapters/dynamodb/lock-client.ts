/** dynamodb-lock-client: its two modes have little in common. Its driver is SDK 2; it calls three methods, which SDK 3 has as well. */
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocument } from '@aws-sdk/lib-dynamodb'
import type { Adapter } from '../../bench.ts'
import type { PeerLock } from '../peer.ts'
import { ASK_AGAIN_MS, dynamodbPeer } from './peer.ts'

type Done<Result> = (error: unknown, result: Result) => void

interface Lock {
  on(event: 'error', listener: () => void): void
  release(done: Done<void>): void
}

interface Mode {
  acquireLock(id: string, done: Done<Lock>): void
}

interface LockClient {
  readonly FailOpen: new (options: object) => Mode
  readonly FailClosed: new (options: object) => Mode
}

const require = createRequire(import.meta.url) // it has no types

const modes = (): LockClient => require('dynamodb-lock-client') as LockClient

/** What the library calls of SDK 2, over SDK 3. */
interface Documents {
  get(params: Parameters<DynamoDBDocument['get']>[0], done: Done<unknown>): void
  put(params: Parameters<DynamoDBDocument['put']>[0], done: Done<unknown>): void
  delete(params: Parameters<DynamoDBDocument['delete']>[0], done: Done<unknown>): void
}

/** @param renewed is called for each heartbeat that was granted */
function documentsOn(dynamodb: DynamoDBClient, renewed: () => void): Documents {
  const documents = DynamoDBDocument.from(dynamodb)
  return {
    get: (params, done) => documents.get(params, coded(done)),
    put(params, done) {
      documents.put(
        params,
        coded((error, result) => {
          if (!error && isHeartbeat(params)) renewed()
          done(error, result)
        }),
      )
    },
    delete: (params, done) => documents.delete(params, coded(done)),
  }
}

/** The name of an error of SDK 3 is where SDK 2 has it. */
function coded(done: Done<unknown>): Done<unknown> {
  return (error, result) => done(error instanceof Error ? Object.assign(error, { code: error.name }) : error, result)
}

/** A claim has another condition, and a release leaves the lease one millisecond. */
function isHeartbeat({ ConditionExpression = '', Item }: Parameters<DynamoDBDocument['put']>[0]): boolean {
  return ConditionExpression.startsWith('attribute_exists') && Item?.['leaseDurationMs'] !== 1
}

function acquired(mode: Mode, lease: string): Promise<Lock> {
  return promisify<string, Lock>((id, done) => mode.acquireLock(id, done))(lease)
}

function released(lock: Lock): Promise<void> {
  return promisify<void>((done) => lock.release(done))()
}

/** With leases and fencing tokens. A claim of what another holds sleeps for the whole duration of the lease: it is no try, and no queue. */
export const lockClientFailOpen: Adapter = dynamodbPeer({
  name: 'dynamodb-lock-client',
  dependency: 'dynamodb-lock-client',
  about: 'FailOpen, on SDK 3; who waits looks again after the whole duration of the lease',
  can: ['one', 'keep'],
  async connect(dynamodb, prefix, { locks }) {
    let renewals = 0
    const documents = documentsOn(dynamodb, () => renewals++)
    const { FailOpen } = modes()
    const modeFor = (leaseDurationMs: number, heartbeatPeriodMs?: number): Mode =>
      new FailOpen({
        dynamodb: documents,
        lockTable: locks,
        partitionKey: 'id',
        leaseDurationMs,
        ...(heartbeatPeriodMs === undefined ? {} : { heartbeatPeriodMs }),
      })
    return {
      async acquire(lease, durationMs) {
        const lock = await acquired(modeFor(durationMs), prefix + lease)
        return { release: () => released(lock) }
      },
      async keep(lease, durationMs) {
        const lock = await acquired(modeFor(durationMs, durationMs / 3), prefix + lease)
        let held = true
        lock.on('error', () => (held = false)) // its heartbeat stops at the first failure
        return {
          get held() {
            return held
          },
          release: () => released(lock),
        }
      },
      renewals: () => renewals,
    }
  },
})

/** Without leases: what a dead process has locked stays locked. */
export const lockClientFailClosed: Adapter = dynamodbPeer({
  name: 'dynamodb-lock-client-closed',
  dependency: 'dynamodb-lock-client',
  about: `FailClosed, on SDK 3: without leases or fencing tokens; who waits asks every ${ASK_AGAIN_MS} ms`,
  can: ['one', 'queue'],
  handOffSeconds: 0.3,
  async connect(dynamodb, prefix, { locks }) {
    const { FailClosed } = modes()
    const modeFor = (retryCount: number): Mode =>
      new FailClosed({
        dynamodb: documentsOn(dynamodb, () => {}),
        lockTable: locks,
        partitionKey: 'id',
        acquirePeriodMs: ASK_AGAIN_MS,
        retryCount,
      })
    const [once, untilGranted] = [modeFor(0), modeFor(Number.MAX_SAFE_INTEGER)]
    const locked = async (mode: Mode, lease: string): Promise<PeerLock> => {
      const lock = await acquired(mode, prefix + lease)
      return { release: () => released(lock) }
    }
    return {
      acquire: (lease) => locked(once, lease),
      wait: (lease) => locked(untilGranted, lease),
    }
  },
})

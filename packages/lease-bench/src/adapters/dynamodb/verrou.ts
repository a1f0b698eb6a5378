import type { Adapter } from '../../bench.ts'
import { verrouLocks } from '../verrou.ts'
import { dynamodbPeer } from './peer.ts'

export const verrouDynamodb: Adapter = dynamodbPeer({
  name: 'verrou',
  dependency: '@verrou/core',
  about: 'DynamoDB store; clocks decide what has lapsed; it extends nothing by itself',
  can: ['one', 'keep', 'queue', 'knows', 'asks'],
  handOffSeconds: 0.3,
  async connect(dynamodb, prefix, { verrou }) {
    const { dynamodbStore } = await import('@verrou/core/drivers/dynamodb')
    return verrouLocks(dynamodbStore({ connection: dynamodb, table: { name: verrou } }), prefix)
  },
})

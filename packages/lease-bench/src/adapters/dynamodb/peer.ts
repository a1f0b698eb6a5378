import type { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { ownSeat, type Ability, type Adapter } from '../../bench.ts'
import { peerContestant, versionOf, type Peer } from '../peer.ts'
import { openDynamodb, tablesOf, type Tables } from './connection.ts'

export interface DynamodbPeer extends Pick<Adapter, 'name' | 'handOffSeconds'> {
  /** Under which the package is installed. */
  readonly dependency: string
  /** What is peculiar about how it is used here. */
  readonly about: string
  readonly can: readonly Ability[]
  /** Over a client that was opened for it; all names begin with the prefix. */
  readonly connect: (
    dynamodb: DynamoDBClient,
    prefix: string,
    tables: Tables,
  ) => Promise<Pick<Peer, 'acquire' | 'wait' | 'keep' | 'renewals'>>
}

/** Who asks again waits so long before: verrou does so by default, and the others have no default. */
export const ASK_AGAIN_MS = 250

/** A library over the same driver as ours. */
export function dynamodbPeer({ dependency, about, connect, ...adapter }: DynamodbPeer): Adapter {
  return {
    ...adapter,
    role: 'peer',
    about: `${versionOf(dependency)}, ${about}`,
    async open({ url }, { space } = ownSeat()) {
      const dynamodb = openDynamodb(url)
      const peer = await connect(dynamodb, `${space}/`, tablesOf(url))
      return peerContestant({ ...peer, close: async () => dynamodb.destroy() })
    },
  }
}

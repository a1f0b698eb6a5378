import { DynamoDBClient } from '@aws-sdk/client-dynamodb'

/** A client as an application would open it, with the SDK's defaults. @param url what `placeAt` made */
export function openDynamodb(url: string): DynamoDBClient {
  const credentials = { accessKeyId: 'bench', secretAccessKey: 'bench' } // a local server takes any
  return new DynamoDBClient({ endpoint: new URL(url).origin, region: 'us-east-1', credentials })
}

/** The tables of one run. */
export interface Tables {
  /** Of the library. */
  readonly leases: string
  /** What is claimed by hand, and what is written under leases: the primary key is `id` (S). */
  readonly items: string
  /** Of verrou, which makes it. */
  readonly verrou: string
  /** Of dynamodb-lock-client: the primary key is `id` (S). */
  readonly locks: string
  /** Of @deliveryhero/dynamodb-lock, with the names of attributes that are its defaults. */
  readonly lockTable: string
}

/** Names the server and the tables of one run. */
export function placeAt(endpoint: string, run: string): string {
  return `${new URL(endpoint).origin}/?run=${run}`
}

export function tablesOf(url: string): Tables {
  const named = (table: string): string => `bench-${new URL(url).searchParams.get('run')}-${table}`
  return {
    leases: named('leases'),
    items: named('items'),
    verrou: named('verrou'),
    locks: named('locks'),
    lockTable: named('lock-table'),
  }
}

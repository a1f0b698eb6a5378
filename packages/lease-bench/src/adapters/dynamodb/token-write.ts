/**
 * The smallest pair of conditional writes that keeps a fencing token: the claim counts it up in the item of the lease, the release demands
 * it. When a lease has lapsed, clocks decide. No lost reply that resolves to "it was mine", no refusal that says who has it, no queue, and a
 * request that arrives late may claim once more.
 */
import { randomUUID } from 'node:crypto'
import { UpdateItemCommand, type AttributeValue } from '@aws-sdk/client-dynamodb'
import type { Adapter } from '../../bench.ts'
import { inBatches, LONG_MS, oneByOne, type ByHand } from '../by-hand.ts'
import { openDynamodb, tablesOf } from './connection.ts'

/** Requests at once: as many as the SDK has sockets. */
const IN_FLIGHT = 50

export const dynamodbTokenWrite: Adapter = {
  name: 'token-write',
  role: 'raw',
  about: 'by hand, a conditional UpdateItem each: vacant or lapsed, and count up the token; the same token, and vacate',
  can: ['one', 'many'],
  async open({ url }) {
    const hand = byHand(url)
    return { ...oneByOne(hand), ...inBatches(hand, IN_FLIGHT) }
  },
}

const claim = {
  UpdateExpression: 'SET #until = :until, #token = if_not_exists(#token, :none) + :one',
  ConditionExpression: 'attribute_not_exists(#until) OR #until < :now',
  ExpressionAttributeNames: { '#until': 'until', '#token': 'token' },
  ReturnValues: 'UPDATED_NEW',
} as const

const extend = {
  UpdateExpression: 'SET #until = :until',
  ConditionExpression: '#token = :token AND attribute_exists(#until)',
  ExpressionAttributeNames: { '#until': 'until', '#token': 'token' },
} as const

const release = {
  UpdateExpression: 'REMOVE #until',
  ConditionExpression: '#token = :token AND attribute_exists(#until)',
  ExpressionAttributeNames: { '#until': 'until', '#token': 'token' },
} as const

function byHand(url: string): ByHand {
  const dynamodb = openDynamodb(url)
  const { items } = tablesOf(url)
  const prefix = randomUUID()
  const tokens = new Map<string, AttributeValue>()
  const about = (lease: string): { readonly TableName: string; readonly Key: Record<string, AttributeValue> } => ({
    TableName: items,
    Key: { id: { S: `${prefix}/${lease}` } },
  })
  const ms = (atMs: number): AttributeValue => ({ N: String(atMs) })
  const tokenOf = (lease: string): AttributeValue => {
    const token = tokens.get(lease)
    if (token === undefined) throw new Error(`${lease} was never claimed`)
    return token
  }
  return {
    atMost: 1,
    async claim([lease = '']) {
      const nowMs = Date.now()
      const values = { ':now': ms(nowMs), ':until': ms(nowMs + LONG_MS), ':none': { N: '0' }, ':one': { N: '1' } }
      const command = new UpdateItemCommand({ ...about(lease), ...claim, ExpressionAttributeValues: values })
      const { Attributes } = await dynamodb.send(command)
      const token = Attributes?.['token']
      if (token === undefined) throw new Error(`${lease} has no token`)
      tokens.set(lease, token)
    },
    async extend([lease = '']) {
      const values = { ':token': tokenOf(lease), ':until': ms(Date.now() + LONG_MS) }
      await dynamodb.send(new UpdateItemCommand({ ...about(lease), ...extend, ExpressionAttributeValues: values }))
    },
    async release([lease = '']) {
      const values = { ':token': tokenOf(lease) }
      await dynamodb.send(new UpdateItemCommand({ ...about(lease), ...release, ExpressionAttributeValues: values }))
    },
    close: async () => dynamodb.destroy(),
  }
}

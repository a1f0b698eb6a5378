import { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import {
  cloudFormation,
  createTable,
  dynamodbClient,
  DynamodbSubstrate,
  iamPolicy,
  terraform,
  type DynamodbOptions,
} from 'lease-dynamodb'

describe('the options of lease-dynamodb', () => {
  const client = new DynamoDBClient({ region: 'us-east-1', endpoint: 'http://127.0.0.1:1' })
  after(() => client.destroy())

  const problemsOf = (error: unknown): Record<string, string> => {
    expect(error).to.be.instanceOf(ErrNotValid)
    return Object.fromEntries((error as ErrNotValid).problems.map(({ argument, rule }) => [argument, rule]))
  }
  const thrownBy = (make: () => unknown): Record<string, string> => {
    try {
      make()
    } catch (error) {
      return problemsOf(error)
    }
    return {}
  }

  it('need a DynamoDBClient, a table and a namespace, and nothing else', async () => {
    await dynamodbClient({ client, table: 'leases', namespace: 'n' }).close()
    expect(thrownBy(() => dynamodbClient({} as DynamodbOptions))).to.have.keys('client', 'table', 'namespace')
    expect(thrownBy(() => dynamodbClient(undefined as unknown as DynamodbOptions))).to.have.keys('options')
  })

  it('are all checked before anything is said, those of core too', () => {
    const bad = {
      client: 'us-east-1',
      table: 'no',
      namespace: 'x'.repeat(256),
      maxSkewMs: -1,
      clock: {},
      events: {},
      requestTimeout: -1,
      Namespace: 'typo',
    }
    expect(thrownBy(() => dynamodbClient(bad as unknown as DynamodbOptions))).to.have.keys(Object.keys(bad))
  })

  it('of a substrate are its own only', () => {
    const options = { client, table: 'leases', namespace: 'n', requestTimeout: 1_000 }
    expect(thrownBy(() => new DynamodbSubstrate(options))).to.have.keys('requestTimeout')
  })

  it('take the name of a table, or its ARN', () => {
    for (const table of ['leases', 'Lea_ses.1-2', 'arn:aws:dynamodb:eu-west-1:123456789012:table/leases']) {
      expect(thrownBy(() => new DynamodbSubstrate({ client, table, namespace: 'n' }))).to.deep.equal({})
    }
    for (const table of ['ab', 'a b c', 'arn:aws:s3:::leases', 'x'.repeat(256), 7 as unknown as string]) {
      expect(thrownBy(() => new DynamodbSubstrate({ client, table, namespace: 'n' }))).to.have.keys('table')
    }
  })

  it('of createTable and of the texts are checked as well', async () => {
    const options = { client: {}, table: '', more: 1 } as unknown as Parameters<typeof createTable>[0]
    const error: unknown = await createTable(options).catch((thrown: unknown) => thrown)
    expect(problemsOf(error)).to.have.keys('client', 'table', 'more')
    for (const text of [cloudFormation, terraform, iamPolicy]) {
      expect(thrownBy(() => text({ table: '"; drop' }))).to.have.keys('table')
      for (const nothing of [undefined, null, 'leases']) {
        const thrown = thrownBy(() => text(nothing as unknown as { table: string }))
        expect(Object.values(thrown).join()).to.contain("{ table: 'leases' }")
      }
    }
    expect(thrownBy(() => iamPolicy({ table: 'leases', region: '' }))).to.have.keys('region')
  })
})

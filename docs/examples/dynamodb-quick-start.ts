/** The quick start on DynamoDB. */
import { TransactWriteItemsCommand, type DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { Manager, uniqueHolder } from 'lease-core'
import { createTable, DynamoGuard, dynamodbClient } from 'lease-dynamodb'

export async function dynamodbQuickStart(dynamodb: DynamoDBClient, table: string, accounts: string): Promise<void> {
  await createTable({ client: dynamodb, table }) // once; or from your templates, see below
  const client = dynamodbClient({ client: dynamodb, table, namespace: 'billing' })
  const manager = new Manager({ client })

  const worker = uniqueHolder('billing') // the name of this caller: two callers with one name are one holder
  const token = await manager.claim('account-42', worker, { seconds: 30 }) // ErrClaimDenied: another holds it
  const guard = new DynamoGuard()
  await token.check(guard) // ErrNotHeld: worker does not hold it
  const Put = { TableName: accounts, Item: { id: { S: '42' }, balance: { N: '90' } } }
  const TransactItems = [...guard.checks, { Put }]
  await guard.transact(TransactItems, () => dynamodb.send(new TransactWriteItemsCommand({ TransactItems })))
  await manager.release('account-42', worker)

  await manager.stop()
  await client.close() // the client of the leases first, then the DynamoDBClient
}

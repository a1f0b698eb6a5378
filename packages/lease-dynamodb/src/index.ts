/** lease-core on DynamoDB. */
export { dynamodbClient } from './dynamodb-client.ts'
export { DynamodbSubstrate } from './dynamodb-substrate.ts'
export type { DynamodbOptions, DynamodbSubstrateOptions } from './options.ts'
export type { DynamodbDriver } from './driver.ts'
export { DynamoGuard, type DynamoCheck, type DynamoDocumentCheck } from './guard.ts'
export { createTable, type CreateTableOptions } from './table.ts'
export { cloudFormation, iamPolicy, terraform, type PolicyOptions, type TableName } from './set-up-texts.ts'

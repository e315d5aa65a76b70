"""The service: takes windows and facts in, answers with ledgers, scores, bills and reports."""

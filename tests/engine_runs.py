"""Settings of trainings that take seconds: 4 steps an epoch on the digits."""

FAST = {
    # an ordinary network in place of RedNet: these tests are about the engine
    "model.name": "test_resnet",
    "data.image_size": 8,
    "data.batch_size": 256,
    "trainer.epochs": 2,
    "schedule.warmup_epochs": 0,
    "optimizer.lr": 0.01,
}
